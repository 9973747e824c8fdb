"""Which blocks and stages decide an attribute: what records/attribute_cells.jsonl amounts to."""

from collections.abc import Mapping, Sequence

from cells import markdown
from recorded import Record

STAGES = {"1": "1000 to 750", "2": "750 to 500", "3": "500 to 250", "4": "250 to 0", "all": "all"}
Shares = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""Attribute -> blocks -> stage -> the share of images that follow the prompt that is read there."""


def shares(found: Sequence[Record]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Over the pairs of each attribute; images without the thing that is asked for are left out, None where that is all."""
    said: dict[tuple[str, str, str], list[bool]] = {}
    for r in found:
        said.setdefault((r["role"], r["blocks"], r["stage"]), []).extend(one for one in r["follows"] if one is not None)
    result: dict[str, dict[str, dict[str, float | None]]] = {}
    for (role, blocks, stage), follows in said.items():
        of_blocks = result.setdefault(role, {}).setdefault(blocks, {})
        of_blocks[stage] = sum(follows) / len(follows) if follows else None
    return result


def table(said: Shares) -> str:
    def cell(share: float | None) -> str:
        return "" if share is None else f"{share:.0%}"

    rows = [
        [f"{role}, {blocks}", *(cell(of_stage[stage]) for stage in STAGES)]
        for role, of_blocks in said.items()
        for blocks, of_stage in of_blocks.items()
    ]
    return markdown(["attribute, blocks", *STAGES.values()], rows)
