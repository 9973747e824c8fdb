"""Presence against cost, drawn from records/frontier.jsonl: every way of sampling, with the same words and noise."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cells import markdown
from drawing import Point, draw_points
from intervals import Estimate, estimate
from recorded import Record, columns

PLAIN = "plain"
SHOWN = {
    "both": "both present",
    "both look": "both, own appearance",
    "stained": "colour leak",
}
LIMIT = 1.15  # of plain sampling's cost
Ways = dict[str, dict[str, Estimate]]
"""By way of sampling: what is SHOWN, and its cost in units of plain sampling's."""


def ways(found: Sequence[Record]) -> dict[str, Ways]:
    """By words, whose rows are called "words: way"; of ways that all of them have been sampled in."""
    result: dict[str, Ways] = {}
    for row in dict.fromkeys(r["row"] for r in found):
        words, way = row.split(": ")
        values = columns([r for r in found if r["row"] == row], [0])
        said = {key: estimate(values[key]) for key in (*SHOWN, "forwards")}
        result.setdefault(words, {})[way] = said
    for words, said in result.items():
        said = result[words] = {way: f for way, f in said.items() if all(way in other for other in result.values())}
        plain = said[PLAIN]["forwards"].value
        for figures in said.values():
            cost = figures.pop("forwards").value / plain
            figures["cost"] = Estimate(cost, cost, cost)
    return result


def best(said: Ways) -> str:
    """The way at no more than LIMIT that shows both most often, the concept with its own appearance."""
    cheap = {way: figures for way, figures in said.items() if figures["cost"].value <= LIMIT}
    return max(cheap, key=lambda way: (cheap[way]["both look"].value, cheap[way]["both"].value))


def draw(said: Mapping[str, Ways], file: Path) -> None:
    panels = {
        f"embeddings of {words}": [Point(way, figures["cost"].value, figures["both"]) for way, figures in ways.items()]
        for words, ways in said.items()
    }
    draw_points(panels, "cost, relative to plain sampling", "both present", LIMIT, file)


def table(said: Mapping[str, Ways]) -> str:
    """A line for each way, the embeddings side by side; of each the best way's share is bold."""
    chosen = {words: best(of_words) for words, of_words in said.items()}

    def cell(words: str, way: str, key: str) -> str:
        share = f"{said[words][way][key].value:.0%}"
        return f"**{share}**" if key == "both look" and way == chosen[words] else share

    columns = [(words, key) for words in said for key in SHOWN]
    rows = [
        [way, f"{figures['cost'].value:.2f}", *(cell(words, way, key) for words, key in columns)]
        for way, figures in next(iter(said.values())).items()
    ]
    return markdown(["", "cost", *(f"{words}: {SHOWN[key]}" for words, key in columns)], rows)
