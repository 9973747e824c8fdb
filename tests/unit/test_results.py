"""What the results' scripts compute from records that were made so that the answers are known."""

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import curves
import frontier
from comparison import agreement, by_scene, candidates, summary, tables
from goals import Goal, composition, training
from intervals import Estimate
from recorded import latest
from results import plain

UNITS = {
    "pretrained word": ["dinghy", "throne"],
    "two concepts": ["dinghy and throne"],
    "in a scene": ["dinghy", "throne"],
    "alone": ["dinghy", "throne"],
}
SAID = {
    "pretrained word": ("other", "stained"),
    "two concepts": ("other", "stained"),
    "in a scene": ("scene",),
    "alone": (),
}


def record(
    row: str, setting: str, unit: str, seed: int, forwards: float, aligned: float, **said: list[int]
) -> dict[str, Any]:
    """A prompt with four pictures; of what is not said, every picture has it."""
    keys = ("class", "look", "room", "wallpaper", *SAID[setting])
    pictures = {key: said.get(key, [1, 1, 1, 1]) for key in keys}
    if "other" in keys:
        pictures["other look"] = pictures["other"] if setting == "two concepts" else [None] * 4
    return {
        "row": row,
        "setting": setting,
        "unit": unit,
        "seed": seed,
        "recipe": "a",
        "forwards": forwards,
        "samples": 800,
        "prompts": ["at night" if setting == "in a scene" else "throne"],
        "diversity": [0.1],
        "aligned": [[aligned] * 4],
        **{key: [values] for key, values in pictures.items()},
    }


def made(**ours: Any) -> list[dict[str, Any]]:
    """Plain words have both in one of four pictures, the class word in all; ours as it is said, else in all, too."""
    rows: dict[str, dict[str, Any]] = {
        "class word": {"forwards": 40, "aligned": 0.7},
        "one vector": {"forwards": 40, "aligned": 0.8, "look": [1, 0, 0, 0], "class": [1, 0, 0, 0]},
        "three vectors": {"forwards": 40, "aligned": 0.8, "other": [1, 0, 0, 0]},
        "ours": {"forwards": 44, "aligned": 0.8, **ours},
    }
    return [
        record(row, setting, unit, seed, **said)
        for (row, said), (setting, units), seed in itertools.product(rows.items(), UNITS.items(), (0, 1))
        for unit in units
    ]


def answers(found: list[dict[str, Any]]) -> dict[str, Goal]:
    return {goal.wanted: goal for goal in composition(tables(found))}


def test_four_times_as_often_is_three_times_more():
    goal = answers(made())["beside an ordinary object: both present 100% more often than with plain textual inversion"]
    assert goal.reached and {name: e.value for name, e in goal.figures.items()} == {
        "against one vector": 3,
        "against three vectors": 3,
    }


def test_a_goal_is_reached_against_every_baseline_or_not():
    # With one vector the other thing is there in every picture, which nothing can double.
    goal = answers(made())[
        "beside an ordinary object: other object present 100% more often than with plain textual inversion"
    ]
    assert goal.figures["against one vector"].value == 0 and goal.figures["against three vectors"].value == 3
    assert not goal.reached


@pytest.mark.parametrize(("looks", "share"), [([1, 1, 1, 1], 1.0), ([1, 1, 1, 0], 0.75)])
def test_the_ceiling_is_the_class_words_presence(looks: list[int], share: float):
    goal = answers(made(look=looks))[
        "beside an ordinary object: both with own appearance at least 95% as often as both are with class words"
    ]
    assert goal.figures["of it"].value == pytest.approx(share) and goal.reached == (share >= 0.9)


@pytest.mark.parametrize(
    ("bound", "most", "reached", "sure"),
    [(0.2, False, True, True), (0.4, False, True, False), (0.6, False, False, False), (0.8, False, False, True),
     (0.8, True, True, True), (0.6, True, True, False), (0.4, True, False, False), (0.2, True, False, True)],
)  # fmt: skip
def test_a_goal_within_its_error_is_reported_as_that(bound: float, most: bool, reached: bool, sure: bool):
    goal = Goal("presence", bound, {"of it": Estimate(0.5, 0.3, 0.7)}, most)
    assert (goal.reached, goal.sure) == (reached, sure)


def test_one_figure_that_surely_misses_is_enough():
    goal = Goal("presence", 0.8, {"of it": Estimate(0.5, 0.3, 0.9), "of that": Estimate(0.5, 0.3, 0.7)})
    assert not goal.reached and goal.sure


def test_a_row_with_fewer_seeds_is_compared_over_those_it_has():
    slow = [{**r, "row": "reference"} for r in made() if r["row"] == "one vector" and r["seed"] == 0]
    table = tables([*made(), *slow])["two concepts"]
    assert table.above("class word", "reference", "both").value == 3  # of the one seed
    said = {row: values["seeds"] for row, values in summary(table).items()}
    assert said == {"class word": 2, "one vector": 2, "three vectors": 2, "ours": 2, "reference": 1}


def test_a_word_counts_in_a_scene_where_it_and_the_scene_are():
    found = made(look=[1, 1, 0, 0], scene=[1, 0, 1, 0])
    ours = tables(found)["in a scene"].rows["ours"]
    assert [ours[key].mean() for key in ("scene", "in scene", "look in scene", "text")] == [0.5, 0.5, 0.25, 0.75]
    rows = {"ours": "ours, no layout", "one vector": "reference"}
    trained = [{**r, "row": rows[r["row"]]} for r in found if r["row"] in rows]
    assert by_scene(trained) == {"reference": {"at night": 0.25}, "ours, no layout": {"at night": 0.5}}


@pytest.mark.parametrize(("aligned", "reached"), [(0.78, True), (0.77, False)])
def test_image_alignment_may_fall_by_three_percent(aligned: float, reached: bool):
    # 3 % below 0.8 is 0.776.
    assert (
        answers(made(aligned=aligned))[
            "two concepts: image alignment at most 3% below plain textual inversion's"
        ].reached
        == reached
    )


def test_a_layout_for_one_picture_costs_as_much_as_for_four():
    # 44 forwards instead of 40 a picture are 16 for the layout of four; for one picture that makes 56 of 40.
    said = answers(made())
    costs = {
        n: said[f"beside an ordinary object: sampling at most 1.15 times the cost of plain sampling, {n} per prompt"]
        for n in ("4 images", "1 image")
    }
    assert costs["4 images"].figures["of it"].value == pytest.approx(1.1) and costs["4 images"].reached
    assert costs["1 image"].figures["of it"].value == pytest.approx(1.4) and not costs["1 image"].reached


def test_a_row_that_lacks_a_seed_takes_it_from_all():
    found = [r for r in made() if not (r["row"] == "ours" and r["seed"] == 1 and r["unit"] == "throne")]
    said = summary(tables(found)["pretrained word"])
    assert {row: values["seeds"] for row, values in said.items()} == dict.fromkeys(said, 1)


def test_a_row_that_has_only_begun_is_left_out():
    found = [r for r in made() if r["row"] != "ours" or r["unit"] == "throne"]
    assert list(tables(found)["pretrained word"].rows) == ["class word", "one vector", "three vectors"]


def test_what_an_earlier_recipe_gave_is_left_out():
    old = [{**r, "other": [[0, 0, 0, 0]]} for r in made()]
    new = [{**r, "recipe": "b"} for r in made()]
    assert latest(old + new) == new


def test_candidates_are_compared_over_the_seeds_that_have_every_concept():
    found = [r for r in made() if r["setting"] == "pretrained word"]
    begun = [r for r in found if not (r["row"] == "ours" and r["unit"] == "throne")]
    assert list(candidates(begun)) == ["class word", "one vector", "three vectors"]
    assert candidates(found)["three vectors"]["both"].value == 0.25


def test_figures_that_left_their_published_intervals_are_counted():
    def said(found: list[dict[str, Any]]) -> Any:
        return plain({setting: summary(table) for setting, table in tables(found).items()})

    count = sum(len(row["columns"]) for rows in said(made()).values() for row in rows.values())
    assert agreement(said(made()), said(made())).startswith(f"{count} of {count} ")
    # In both settings, that the other thing is rarer changes its own share, both, both in their look, and text alignment;
    # of two concepts, and of the copy for a word beside an ordinary thing, the other's look, too.
    assert agreement(said(made()), said(made(other=[1, 0, 0, 0]))).startswith(f"{count - 10} of {count} ")


def length(recipe: str, concept: str, samples: int, share: float) -> dict[str, Any]:
    shares = dict.fromkeys((*curves.SHARES, "room"), share)
    return {"recipe": recipe, "concept": concept, "seed": 0, "samples": samples, **shares}


REFERENCE_RUN = [
    length(curves.REFERENCE, "throne", samples, share) for samples, share in ((100, 0.3), (1000, 0.9), (9000, 0.6))
]


def test_how_many_samples_ours_needs_for_what_the_reference_is_worth():
    ours = [length(curves.OURS, "throne", samples, share) for samples, share in ((50, 0.2), (300, 0.6), (1600, 0.8))]
    said = curves.learning(REFERENCE_RUN + ours)["shares"]["both"]
    assert (said["at its end"]["samples"], said["at its end"]["ours"]) == (9000, 300)
    assert (said["at its best"]["samples"], said["at its best"]["ours"]) == (1000, None)
    assert said["at its defaults"].value == 0.8 and said["against its end"].value == pytest.approx(0.8 / 0.6 - 1)


def test_the_worst_colour_leak_is_reported_of_both():
    ours = [length(curves.OURS, "throne", samples, share) for samples, share in ((50, 0.2), (1600, 0.1))]
    assert curves.learning(REFERENCE_RUN + ours)["leak"] == {curves.REFERENCE: (0.9, 1000), curves.OURS: (0.2, 50)}


def test_larger_batches_are_compared_over_the_same_runs_only():
    ours = [length(curves.OURS, "throne", samples, 0.5) for samples in (50, 1600)]
    said = curves.learning(REFERENCE_RUN + ours + [length(curves.LARGER, "throne", 3200, 0.7)])
    assert said["larger"]["samples"] == 3200 and said["larger"]["shares"]["alone"].value == 0.7
    assert said["larger"]["against its end"]["alone"].value == pytest.approx(0.7 / 0.6 - 1)
    assert "| alone, own appearance | 60% (60 to 60) | 50% (50 to 50) | -17% | 70% (70 to 70) | +17% |" in (
        curves.ends_table(said)
    )
    other = curves.learning(REFERENCE_RUN + ours + [length(curves.LARGER, "canopy", 3200, 0.7)])
    assert "larger" not in other and "8 a step" not in curves.ends_table(other)


def test_scenes_are_reported_of_whole_runs_with_scenes():
    def asked(run: dict[str, Any], share: float) -> dict[str, Any]:
        return {**run, curves.SCENES: share}

    ours = [length(curves.OURS, "throne", samples, 0.5) for samples in (50, 1600)]
    assert "scenes" not in curves.learning([*REFERENCE_RUN, *ours])
    said = curves.learning([*REFERENCE_RUN[:2], asked(REFERENCE_RUN[2], 0.5), ours[0], asked(ours[1], 0.6)])
    assert said["scenes"]["against its end"].value == pytest.approx(0.2)
    assert "| own appearance in a named scene | 50% (50 to 50) | 60% (60 to 60) | +20% |" in curves.ends_table(said)
    (goal,) = [g for g in training(said) if "in a named scene" in g.wanted]
    assert goal.reached


def test_only_whole_runs_of_the_same_concepts_are_compared():
    ours = [length(curves.OURS, concept, 1600, 0.8) for concept in ("throne", "dinghy")]
    begun = [length(curves.REFERENCE, "dinghy", 100, 0.0)]
    said = curves.learning(REFERENCE_RUN + begun + ours)
    assert {recipe: runs["concepts"] for recipe, runs in said["runs"].items()} == {
        key: ["throne"] for key in curves.COLORS
    }
    assert said["shares"]["both"]["curves"][curves.REFERENCE][0][1].value == 0.3


def sampled(way: str, forwards: float, **said: list[int]) -> dict[str, Any]:
    return record(f"one vector: {way}", "pretrained word", "zippy", 0, forwards, 0.8, **said)


def test_the_best_way_of_sampling_is_the_best_of_those_that_cost_little():
    found = [
        sampled("plain", 40, look=[0, 0, 0, 0], other=[1, 0, 0, 0]),
        sampled("steered", 40, look=[0, 0, 0, 0], other=[1, 1, 0, 0]),
        sampled("probed", 46, look=[1, 0, 0, 0], other=[1, 1, 0, 0]),
        sampled("guided", 60),
    ]
    said = frontier.ways(found)["one vector"]
    assert [figures["cost"].value for figures in said.values()] == [1, 1, 1.15, 1.5]
    assert [figures["both"].value for figures in said.values()] == [0.25, 0.5, 0.5, 1]
    assert frontier.best(said) == "probed"  # the guided way costs too much
    assert "| probed | 1.15 | 50% | **25%** | 100% |" in frontier.table({"one vector": said})
