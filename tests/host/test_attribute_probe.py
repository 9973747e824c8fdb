"""Where attributes are: the micro world's answer is known, for its blocks were looked into by hand."""

import re
from typing import Any

import pytest
import torch

SETTINGS = {
    "rows": "groups", "stages": "", "images": 6, "resolution": 64, "steps": 8, "cfg": 5.0, "seed": 3,
}  # fmt: skip


def probe(pack: Any, microworld: Any, a: str, b: str, **changes: Any) -> Any:
    inputs = {**SETTINGS, **changes, "prompt_a": a, "prompt_b": b}
    with torch.inference_mode():
        return pack.run("CompInvAttributeProbe", model=microworld[0], clip=microworld[1], **inputs)


def shares(table: str) -> dict[str, list[float]]:
    rows = [line.split("  ") for line in table.splitlines()[3:]]
    return {row[0].strip(): [float(part.split()[0]) for part in row[1:] if part.strip()] for row in rows}


def trained() -> bool:
    from micro import TRAINED

    return TRAINED.exists()


def test_colour_is_in_the_fine_blocks_and_class_in_the_coarse_ones(pack: Any, microworld: Any):
    """The layer half of MATTE's and P+'s claim, on a model that was trained without it in mind."""
    if not trained():
        pytest.skip("the micro world's checkpoint is not there, and random weights decide nothing")
    colour = shares(probe(pack, microworld, "a photo of a red cat", "a photo of a blue cat")[1])
    thing = shares(probe(pack, microworld, "a photo of a cat", "a photo of a cup")[1])
    assert colour["fine"][0] > 0.7 > 0.3 > colour["coarse"][0]
    assert thing["coarse"][0] > 0.6 > 0.4 > thing["fine"][0]


def test_cells_found_are_a_table_for_training_and_prompts_and_grow_line_by_line(pack: Any, microworld: Any):
    if not trained():
        pytest.skip("the micro world's checkpoint is not there, and random weights decide nothing")
    colour = probe(pack, microworld, "a photo of a red cat", "a photo of a blue cat")[2]
    assert colour == "colour: fine"
    thing = {"attribute": "object", "cells": colour}
    both = probe(pack, microworld, "a photo of a cat", "a photo of a cup", **thing)[2]
    assert re.fullmatch(r"colour: fine\nobject: (coarse|all)", both)
    with pytest.raises(ValueError, match='"cells" has the stages "none", and "stages" is "500"; the same are needed'):
        probe(pack, microworld, "a photo of a cat", "a photo of a cup", **thing, stages="500")
    cells = probe(pack, microworld, "a photo of a red cat", "a photo of a blue cat", stages="750, 500, 250")[2]
    text = "a photo of a cat"
    with torch.inference_mode():
        pack.run(
            "CompInvAttributePrompt",
            model=microworld[0],
            clip=microworld[1],
            text=text,
            cells="table",
            table=cells,
            subjects="",
        )


def test_the_ends_of_the_way_are_the_two_prompts(pack: Any, microworld: Any):
    picture, table, _ = probe(
        pack, microworld, "a photo of a red cat", "a photo of a cup", stages="500", images=2, steps=4
    )
    found = shares(table)
    assert list(found) == ["coarse", "fine", "all"] and found["all"][-1] == 1
    assert picture.ndim == 4 and picture.shape[-1] == 3
    blocks = shares(probe(pack, microworld, "a red cat", "a cup", rows="every block", images=1, steps=2)[1])
    assert list(blocks) == ["input 1", "input 3", "middle 0", "output 0", "output 1", "output 2", "output 3", "all"]


def test_the_model_and_its_sampling_are_as_before(pack: Any, microworld: Any):
    from test_sampling import ksampler

    before = ksampler(pack, microworld)
    probe(pack, microworld, "a red cat", "a cup", images=1, steps=2)
    assert torch.equal(ksampler(pack, microworld), before)


def test_prompts_that_are_alike_and_stages_that_are_none_are_refused(pack: Any, microworld: Any):
    with pytest.raises(ValueError, match="mean the same to the text encoder"):
        probe(pack, microworld, "a red cat", "a  red cat")
    with pytest.raises(ValueError, match="numbers that fall"):
        probe(pack, microworld, "a red cat", "a cup", stages="250, 500")
