"""The table of cells: what acts in which block and stage, of any model."""

import pytest
from compositional_inversion.compinv_core.families.unet import Outline
from compositional_inversion.compinv_core.reading.table import (
    MATTE,
    PRESETS,
    ROLES,
    XTI,
    Cells,
    Table,
    clauses_of,
    noises_of,
    parsed,
    per_layer,
    per_stage,
    stage_of,
)
from outlines import MICROWORLD, SD15, SDXL


def places(cells: Cells, attribute: str, stage: int) -> set[str]:
    return {place for place, own in cells.of[attribute] if own == stage}


def test_a_stage_is_the_part_of_the_schedule_that_begins_at_its_cut():
    cuts = (750.0, 500.0, 250.0)
    assert [stage_of(t / 1000, cuts) for t in (999, 750, 749, 500, 499, 250, 249, 0)] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [stage_of(noise, cuts) for noise in noises_of(cuts)] == [1, 2, 3, 4]
    assert stage_of(0.3, ()) == 1


def test_groups_are_those_of_the_model():
    assert places(MATTE.on(SD15), "object", 2) == {"input 7", "input 8", "middle 0", "output 3", "output 4", "output 5"}
    assert places(MATTE.on(SD15), "colour", 1) == {"input 4", "input 5", "output 6", "output 7", "output 8"}
    assert not places(MATTE.on(SD15), "colour", 3) and not places(MATTE.on(SD15), "object", 1)


@pytest.mark.parametrize("outline", [SDXL, MICROWORLD])
def test_without_moderate_blocks_the_next_named_group_takes_their_part(outline: Outline):
    assert places(MATTE.on(outline), "colour", 1) == set(outline.places_by_group["fine"])


def test_what_acts_is_asked_of_a_block_at_a_timestep():
    cells = MATTE.on(SD15)
    assert cells.acting("input 4", 0.9) == ["colour", "style"] and cells.acting("input 4", 0.4) == []
    assert cells.acting("middle 0", 0.9) == ["layout"] and cells.acting("middle 0", 0.6) == ["object"]
    assert cells.acting("input 1", 0.9) == []


def test_a_table_is_the_text_that_it_is_written_as():
    for table in (*PRESETS.values(), per_layer(SD15), per_stage()):
        assert parsed(str(table)) == table
    text = "stages: 800, 10\ncolour: moderate|fine, output 3 in 1, 3; coarse in 2\nstyle: none"
    assert str(parsed(text)) == text
    assert parsed("# a comment\n\ncolour:  fine  in 1 - 2 , 4\nstages: 3,2,1\n") == parsed(
        "stages: 3, 2, 1\ncolour: fine in 1-2, 4"
    )


def test_an_attribute_without_cells_acts_nowhere():
    assert parsed("colour: none").on(SD15).of["colour"] == frozenset()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_the_four_attributes(name: str):
    assert set(PRESETS[name].lines) == set(ROLES)
    PRESETS[name].on(SDXL)


def test_b_lora_names_blocks_of_sdxl():
    cells = PRESETS["B-LoRA"].on(SDXL)
    assert [places(cells, name, 1) for name in ROLES] == [{"output 1"}, {"output 1"}, {"output 0"}, {"input 8"}]


def test_every_block_has_an_attribute_of_its_own_as_kohya_names_it():
    table = per_layer(SD15)
    kohya = "IN01 IN02 IN04 IN05 IN07 IN08 MID OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11"
    assert [*table.lines] == kohya.split() == [*XTI]
    cells = table.on(SD15)
    assert [cells.acting(place, 0.3) for place in SD15.place_names] == [[name] for name in kohya.split()]


def test_every_stage_has_an_attribute_of_its_own_in_all_blocks():
    cells = per_stage().on(SDXL)
    assert [cells.acting("input 4", (t + 0.5) / 1000)[0] for t in (950, 900, 899, 100, 50)] == [
        "stage1", "stage1", "stage2", "stage9", "stage10",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour fine", 'the line "colour fine"'),
        ("colour: fine\ncolour: coarse", 'the line "colour: coarse"'),
        ("colour: finest", '"finest" in the line "colour: finest"; coarse, moderate, fine, all'),
        ("colour: output", '"output" in the line'),
        ("colour: fine in one", 'the stages "one"'),
        ("colour: fine in 2", 'gives "colour" the stage 2; 1 to 1 are allowed'),
        ("stages: 500\ncolour: fine in 0", "the stage 0; 1 to 2"),
        ("stages: 250, 500", '"stages: 250, 500"; numbers that fall'),
        ("stages: 1000", "numbers that fall"),
        ("stages: early", '"stages: early"; timesteps'),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(text: str, said: str):
    with pytest.raises(ValueError) as error:
        parsed(text)
    assert said in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize("blocks", ["moderate", "output 11", "output 6", "moderate|moderate"])
def test_a_group_that_the_model_lacks_is_refused(blocks: str):
    table = parsed(f"colour: {blocks}")
    with pytest.raises(ValueError, match=r"which this model lacks; it has coarse, fine, and the blocks input 4, "):
        table.on(SDXL)


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        ([("fine", 2), ("fine", 1)], "fine in 1-2"),
        ([("fine", 1), ("fine", 2), ("fine", 3), ("coarse", 2)], "fine; coarse in 2"),
        ([("coarse", 3), ("moderate", 3)], "coarse, moderate in 3"),
        ([(group, 1) for group in ("coarse", "moderate", "fine")], "all in 1"),
        ([("output 3", 1), ("output 3", 3)], "output 3 in 1, 3"),
    ],
)
def test_cells_are_written_as_a_line_of_a_table(cells: list[tuple[str, int]], line: str):
    table = Table((700, 300), {"colour": clauses_of(cells, ["coarse", "moderate", "fine"], 3)})
    assert str(table) == f"stages: 700, 300\ncolour: {line}" and parsed(str(table)) == table
