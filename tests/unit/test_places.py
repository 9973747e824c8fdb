"""Where on the canvas a conditioning is, as ComfyUI cuts it, and layouts that keep to it."""

import pytest
from compositional_inversion.compinv_core.host.places import area_of


@pytest.mark.parametrize(
    ("set_by_user", "cut"),
    [
        ((8, 4, 0, 4), (8, 4, 0, 4)),
        ((8, 8, 0, 4), (8, 4, 0, 4)),
        ((16, 16, 0, 0), (8, 8, 0, 0)),
        ((16, 3, 5, 6), (3, 2, 5, 6)),
        (("percentage", 1.0, 0.5, 0.0, 0.75), (8, 2, 0, 6)),
        (("percentage", 0.01, 0.5, 0.5, 0.5), (1, 4, 4, 4)),
        ((8, 4, 1, 0, 4, 0), (8, 4, 0, 4)),  # with a third axis
    ],
)
def test_an_area_is_cut_at_the_edge_of_the_canvas(set_by_user: tuple[int, ...], cut: tuple[int, ...]):
    assert area_of({"area": set_by_user}, (8, 8)) == cut


def test_without_an_area_it_is_for_all_of_the_canvas():
    assert area_of({}, (8, 8)) is None


@pytest.mark.parametrize("area", [(8, 8, 0, 8), (8, 8, 9, 0), (8, 0, 0, 0)])
def test_an_area_beside_the_canvas_is_refused(area: tuple[int, ...]):
    with pytest.raises(ValueError, match="a part of the canvas, of 64 x 64 pixels, is needed"):
        area_of({"area": area}, (8, 8))
