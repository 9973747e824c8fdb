"""The groups and the used blocks of UNets, by descriptions written from the models' published shapes."""

import pytest
from compositional_inversion.compinv_core.families.unet import Block, Outline
from outlines import MICROWORLD, SD15, SDXL


def places_of(unet: Outline, group: str) -> list[str]:
    return list(dict.fromkeys(f"{b.place[0]} {b.place[1]}" for b in unet.blocks if unet.groups[b] == group))


def test_sd_15_has_sixteen_cross_attentions_in_three_groups():
    assert len(SD15.blocks) == 16
    coarse = ["input 7", "input 8", "middle 0", "output 3", "output 4", "output 5"]
    assert places_of(SD15, "coarse") == coarse
    assert places_of(SD15, "moderate") == ["input 4", "input 5", "output 6", "output 7", "output 8"]
    assert places_of(SD15, "fine") == ["input 1", "input 2", "output 9", "output 10", "output 11"]


def test_sdxl_has_seventy_in_two_groups():
    assert len(SDXL.blocks) == 70
    assert places_of(SDXL, "coarse") == ["input 7", "input 8", "middle 0", "output 0", "output 1", "output 2"]
    assert places_of(SDXL, "fine") == ["input 4", "input 5", "output 3", "output 4", "output 5"]
    assert not places_of(SDXL, "moderate")


def test_a_model_with_two_levels_has_coarse_and_fine_blocks():
    assert places_of(MICROWORLD, "coarse") == ["input 3", "middle 0", "output 0", "output 1"]
    assert places_of(MICROWORLD, "fine") == ["input 1", "output 2", "output 3"]


@pytest.mark.parametrize(
    ("unet", "side", "outputs"),
    [
        (SD15, 64, {3, 4, 5}),  # as in the paper
        (SD15, 32, {3, 4, 5}),
        (SD15, 16, {3, 4, 5, 6, 7, 8}),  # the first decoder level has maps of 4 x 4
        (SDXL, 128, {0, 1, 2}),
        (MICROWORLD, 8, {0, 1, 2, 3}),
    ],
)
def test_used_are_the_middle_and_decoder_levels_down_to_eight_cells(unet: Outline, side: int, outputs: set[int]):
    used = unet.guided_blocks(side, 2 * side)
    assert used[0] == Block(("middle", 0), 0)
    assert {block.place[1] for block in used if block.place[0] == "output"} == outputs
    assert used == [block for block in unet.blocks if block in used]  # in the order in which they run
