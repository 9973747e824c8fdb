"""Which blocks and stages decide an attribute, and what embeddings of single attributes show: what the records amount to."""

from collections.abc import Mapping, Sequence

import numpy as np
from cells import markdown, percent
from intervals import Estimate, above, estimate, part_of
from recorded import Record, seeds_of, units_of

STAGES = {"1": "1000 to 750", "2": "750 to 500", "3": "500 to 250", "4": "250 to 0", "all": "all"}
NOTHING, WORDS, MATTE, MEASURED = "no attribute", "ordinary words", "MATTE", "MATTE, measured cells"
EACH = 4  # images of an attribute on a class
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


def alone(found: Sequence[Record]) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Row -> the attribute that is used alone -> each attribute of the reference -> the share of images that show it."""
    return {
        row: {
            role: {name: estimate(_used(own, role, name)) for name in own[0]["used"][role]} for role in own[0]["used"]
        }
        for row, own in _rows(found).items()
    }


def together(found: Sequence[Record]) -> dict[str, dict[str, Estimate]]:
    """Row -> each of the attributes of three references that are asked for together, and "all" -> the share of images that show it."""
    return {
        row: {name: estimate(_together(own, name)) for name in (*own[0]["together"], "all")}
        for row, own in _rows(found).items()
    }


def hits(found: Sequence[Record], row: str) -> dict[str, Estimate]:
    """Attribute -> how often a row's embedding of it shows it, as a part of how often ordinary words do."""
    rows = _rows(found)
    if not {WORDS, row} <= set(rows):
        return {}
    own, ceiling = rows[row], rows[WORDS]
    return {role: part_of(_used(own, role, role), _used(ceiling, role, role)) for role in own[0]["used"]}


def leaks(found: Sequence[Record], row: str) -> dict[str, Estimate]:
    """ "b with a" -> by how much more often attribute b is shown where a row's embedding of a is used than where nothing is."""
    rows = _rows(found)
    if not {NOTHING, row} <= set(rows):
        return {}
    own, chance = rows[row], rows[NOTHING]
    roles = own[0]["used"]
    return {
        f"{shown} with {role}": above(_used(own, role, shown), _used(chance, role, shown))
        for role in roles
        for shown in roles
        if role != shown
    }


def alone_table(said: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> str:
    """The attribute itself in bold."""
    lines = [
        [f"{row}, {role}", *(f"**{percent(e)}**" if name == role else percent(e) for name, e in shown.items())]
        for row, of_roles in said.items()
        for role, shown in of_roles.items()
    ]
    return markdown(["way, attribute used", *next(iter(next(iter(said.values())).values()))], lines)


def together_table(said: Mapping[str, Mapping[str, Estimate]]) -> str:
    heads = [f"{name} of its reference" if name != "all" else "all three" for name in next(iter(said.values()))]
    return markdown(["", *heads], [[row, *map(percent, shares.values())] for row, shares in said.items()])


def _rows(found: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each row that has all references, of the seeds that all of these have, sorted."""
    result: dict[str, list[Record]] = {}
    for row in dict.fromkeys(r["row"] for r in found):
        own = [r for r in found if r["row"] == row]
        if seeds := seeds_of(own, units_of(found)):
            result[row] = sorted((r for r in own if r["seed"] in seeds), key=lambda r: (r["unit"], r["seed"]))
    return result


def _used(own: Sequence[Record], role: str, shown: str) -> np.ndarray:
    return _array(own, [r["used"][role][shown] for r in own])


def _together(own: Sequence[Record], shown: str) -> np.ndarray:
    said = [r["together"] for r in own]
    return _array(
        own, [[all(several) for several in zip(*r.values(), strict=True)] if shown == "all" else r[shown] for r in said]
    )


def _array(own: Sequence[Record], said: Sequence[Sequence[bool | None]]) -> np.ndarray:
    """(references, seeds, prompts, images of each); NaN where the thing is not."""
    values = np.array(said, dtype=float)
    return values.reshape(len(units_of(own)), -1, values.shape[1] // EACH, EACH)
