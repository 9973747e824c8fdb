"""The UNets of SD 1.x, SD 2.x and SDXL: their cross-attentions, which of these show where things are, and what they decide."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Group = Literal["coarse", "moderate", "fine"]
"""Of cross-attentions, by how many cells their maps have: coarse ones decide what is drawn, fine ones its colour."""

MIN_CELLS = 8  # along the shorter side of a map that tells two subjects apart


@dataclass(frozen=True)
class Block:
    """One cross-attention: `place` is ComfyUI's name of the block, `depth` the index within its transformer."""

    place: tuple[str, int]
    depth: int

    @property
    def place_name(self) -> str:
        """As it is written: "output 3"."""
        return "{} {}".format(*self.place)


@dataclass(frozen=True)
class Place:
    """A block of the UNet with cross-attention to text.

    Attributes:
        name: ComfyUI's: "input", "middle" or "output", and an index.
        depth: how many cross-attentions it has, one behind the other.
        level: how often the latent was halved on the way there; 0 at its own size.
    """

    name: tuple[str, int]
    depth: int
    level: int

    @property
    def blocks(self) -> list[Block]:
        return [Block(self.name, i) for i in range(self.depth)]


@dataclass(frozen=True)
class Outline:
    """A UNet, as far as its cross-attentions go.

    Attributes:
        places: in the order in which they run.
        deepest: the level of its middle.
    """

    places: tuple[Place, ...]
    deepest: int

    @property
    def blocks(self) -> list[Block]:
        """Every cross-attention, in the order in which they run."""
        return [block for place in self.places for block in place.blocks]

    def guided_blocks(self, height: int, width: int) -> list[Block]:
        """The blocks whose maps are used: the middle and the first decoder level with attention, as in the paper.

        Further decoder levels are added until a map has 8 cells along its shorter side, as the paper's have at 512 px;
        on a small canvas the coarse levels alone could not tell two subjects apart.

        Args:
            height, width: of the latent.
        """
        used = _blocks_of([place for place in self.places if place.name[0] == "middle"])
        for level in range(self.deepest, -1, -1):
            found = [place for place in self.places if place.name[0] == "output" and place.level == level]
            used += _blocks_of(found)
            cells = (min(height, width) // 2**self.deepest) * 2 ** (self.deepest - level)
            if found and cells >= MIN_CELLS:
                break
        return used

    @property
    def groups(self) -> dict[Block, Group]:
        """Each block's group, by the size of its maps relative to the finest of this model, not by its index.

        The finest level is fine, the two deepest are coarse, what lies between is moderate. SDXL has two levels with attention
        and none between.
        """
        levels = sorted({place.level for place in self.places})
        named: dict[int, Group] = {level: "coarse" if level in levels[-2:] else "moderate" for level in levels}
        named[levels[0]] = "fine"
        return {block: named[place.level] for place in self.places for block in place.blocks}

    @property
    def places_by_group(self) -> dict[Group, list[str]]:
        """Those groups that this model has, coarse ones first, with the names of their places ("output 3") in running order."""
        found: dict[Group, list[str]] = {}
        for group in get_args(Group):
            names = dict.fromkeys(block.place_name for block, own in self.groups.items() if own == group)
            found |= {group: list(names)} if names else {}
        return found

    @property
    def place_names(self) -> list[str]:
        """In running order."""
        return ["{} {}".format(*place.name) for place in self.places]


def _blocks_of(places: Sequence[Place]) -> list[Block]:
    return [block for place in places for block in place.blocks]
