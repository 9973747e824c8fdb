"""UNets by their published shapes: which block has how many cross-attentions, at which size."""

from compositional_inversion.compinv_core.families.unet import Outline, Place


def outline(deepest: int, **places: dict[int, tuple[int, int]]) -> Outline:
    """Of {part: {index: (depth, level)}}."""
    found = [Place((part, i), *shape) for part, of_part in places.items() for i, shape in of_part.items()]
    return Outline(tuple(found), deepest)


SD15 = outline(
    3,
    input={1: (1, 0), 2: (1, 0), 4: (1, 1), 5: (1, 1), 7: (1, 2), 8: (1, 2)},
    middle={0: (1, 3)},
    output={3: (1, 2), 4: (1, 2), 5: (1, 2), 6: (1, 1), 7: (1, 1), 8: (1, 1), 9: (1, 0), 10: (1, 0), 11: (1, 0)},
)
SDXL = outline(
    2,
    input={4: (2, 1), 5: (2, 1), 7: (10, 2), 8: (10, 2)},
    middle={0: (10, 2)},
    output={0: (10, 2), 1: (10, 2), 2: (10, 2), 3: (2, 1), 4: (2, 1), 5: (2, 1)},
)
MICROWORLD = outline(
    1,
    input={1: (1, 0), 3: (1, 1)},
    middle={0: (1, 1)},
    output={0: (1, 1), 1: (1, 1), 2: (1, 0), 3: (1, 0)},
)
