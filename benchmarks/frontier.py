"""Presence against cost, drawn from records/frontier.jsonl: every way of sampling, with the same words and noise."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from drawing import Point, draw_points
from intervals import Estimate, estimate
from recorded import Record, columns

PLAIN = "plain"
SHOWN = {
    "both": "its class and the other thing",
    "both look": "in its colour and the other thing",
    "stained": "its colour on the other thing",
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
    """The way at no more than LIMIT that has both most often, the word in its own look."""
    cheap = {way: figures for way, figures in said.items() if figures["cost"].value <= LIMIT}
    return max(cheap, key=lambda way: (cheap[way]["both look"].value, cheap[way]["both"].value))


def draw(said: Mapping[str, Ways], file: Path) -> None:
    panels = {
        f"words of {words}": [Point(way, figures["cost"].value, figures["both"]) for way, figures in ways.items()]
        for words, ways in said.items()
    }
    draw_points(panels, "cost, in plain sampling's", "both there", LIMIT, file)


def table(said: Mapping[str, Ways]) -> str:
    """A line for each way, the words side by side."""
    names = [f"{words}: {title}" for words in said for title in SHOWN.values()]
    lines = ["| | cost | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for way in next(iter(said.values())):
        cells = [f"{said[words][way][key].value:.0%}" for words in said for key in SHOWN]
        cost = next(iter(said.values()))[way]["cost"].value
        lines.append(f"| {way} | {cost:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
