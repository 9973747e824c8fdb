"""Which blocks and stages decide an attribute: what records/attribute_cells.jsonl amounts to."""

from collections.abc import Mapping, Sequence

from cells import markdown
from recorded import Record

ROLES = ("colour", "style", "object", "layout")
STAGES = {"1": "1000 to 750", "2": "750 to 500", "3": "500 to 250", "4": "250 to 0", "all": "all"}
Shares = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Attribute -> blocks -> stage -> the share of images that follow the prompt that is read there."""


def shares(found: Sequence[Record]) -> dict[str, dict[str, dict[str, float]]]:
    """Over the pairs of each attribute; images without the thing that is asked for are left out."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for role in ROLES:
        for record in (r for r in found if r["role"] == role):
            of_blocks = result.setdefault(role, {}).setdefault(record["blocks"], {})
            alike = [r for r in found if all(r[key] == record[key] for key in ("role", "blocks", "stage"))]
            said = [bool(one) for r in alike for one in r["follows"] if one is not None]
            of_blocks[record["stage"]] = sum(said) / len(said)
    return result


def table(said: Shares) -> str:
    rows = [
        [f"{role}, {blocks}", *(f"{of_stage[stage]:.0%}" for stage in STAGES)]
        for role, of_blocks in said.items()
        for blocks, of_stage in of_blocks.items()
    ]
    return markdown(["attribute, blocks", *STAGES.values()], rows)
