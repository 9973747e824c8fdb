"""The contexts that are read of a CONDITIONING, put in place of its one when a sampler starts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from ..reading.by_cell import ByCell, CellContexts
from ..reading.regional import ReadContexts, Variant, Variants
from ..sentences import quoted

VARIANTS = "compinv_variants"
"""The key under which an entry of a CONDITIONING holds its `Variants`."""

BY_CELL = "compinv_by_cell"
"""The key under which an entry of a CONDITIONING holds its `ByCell`."""

CONTEXTS = "compinv_contexts"
"""The key under which a sampler's conditioning holds the contexts that it reads."""

OWNER = "compinv_contexts_owner"
"""The key under which a sampler's conditioning names who has put these in place, and so sees to who reads which."""

CONTROLNET = "crossattn_controlnet"
Read = Callable[[dict[str, Any]], ReadContexts | CellContexts | None]


def name_apart(conds: dict[str, list[dict[str, Any]]]) -> None:
    """Give each of a guider's conditionings a name of its own, in place.

    ComfyUI gives every other branch a copy of a conditioning that has an area, which has its name but what the branch reads: what
    is done to the one by its name would be done to the other, too.
    """
    seen = set[Any]()
    for kind, of_kind in conds.items():
        conds[kind] = [{**cond, "uuid": uuid4()} if cond["uuid"] in seen else cond for cond in of_kind]
        seen.update(cond["uuid"] for cond in of_kind)


def appended(written: Tensor, read: Tensor) -> Tensor | None:
    """What was concatenated behind an encoded prompt (1, L, E), which is now `read`: (1, n, E), n being 0 for nothing.

    Returns:
        None where the encoded prompt was changed: averaged, scaled, or put behind another.
    """
    length = written.shape[1]
    if read.shape[0] != 1 or read.shape[1] < length or not torch.equal(read[:, :length].cpu(), written.cpu()):
        return None
    return read[:, length:]


def variants_of(cond: dict[str, Any]) -> Variants | None:
    """Those of a sampler's conditioning; what was concatenated behind its prompt is behind each of them, too.

    Returns:
        None where there are none, or where the encoded prompt was changed: averaged, scaled, or put behind another.
    """
    variants: Variants | None = cond.get(VARIANTS)
    behind = appended(variants.own.encoded, cond["cross_attn"]) if variants is not None else None
    if variants is None or behind is None:
        return None
    return variants.each(lambda one: _lengthened(one, behind)) if behind.shape[1] else variants


def by_cell_of(cond: dict[str, Any]) -> ByCell | None:
    """That of a sampler's conditioning, with what was concatenated behind its prompt; None where there is none.

    Raises:
        ValueError: the encoded prompt was changed: averaged, scaled, or put behind another.
    """
    by_cell: ByCell | None = cond.get(BY_CELL)
    if by_cell is None:
        return None
    behind = appended(by_cell.prompts[0].own.encoded, cond["cross_attn"])
    if behind is None:
        raise ValueError(
            f'The prompt "{quoted(by_cell.texts[0])}" of Attribute Prompt was changed by another node, such as Conditioning (Average); '
            "connect it to the sampler without that node."
        )
    return by_cell.each(lambda one: _lengthened(one, behind)) if behind.shape[1] else by_cell


def _lengthened(one: Variant, behind: Tensor) -> Variant:
    return replace(one, encoded=torch.cat([one.encoded.to(behind), behind], dim=1))


def put_contexts(guider: Any, owner: object, read: Read) -> None:
    """Put the contexts that are read of a guider's conditionings in place of their one, which is as the model takes it.

    ComfyUI repeats what is shorter to the same length. What an unconditional branch reads stays as it is, and so does what a
    ControlNet reads, which knows no rules.

    Args:
        read: the contexts of a conditioning; None for its own alone.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, conds in guider.conds.items():
        found[kind] = conds if "negative" in kind else [_with_contexts(cond, owner, read) for cond in conds]
    every = [cond for conds in found.values() for cond in conds]
    if not any(cond.get(OWNER) is owner for cond in every):
        return
    if any(cond.get("control") for cond in every):  # all of them, for ComfyUI runs together what has the same keys
        for kind, conds in found.items():
            pairs = zip(conds, guider.conds[kind], strict=True)
            found[kind] = [_for_controlnet(cond, before["model_conds"]) for cond, before in pairs]
    guider.conds.update(found)


def _for_controlnet(cond: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """With ComfyUI's own key for what a ControlNet reads instead of what the UNet does."""
    if CONTROLNET in before or "c_crossattn" not in before:
        return cond
    return {**cond, "model_conds": {**cond["model_conds"], CONTROLNET: before["c_crossattn"]}}


def _with_contexts(cond: dict[str, Any], owner: object, read: Read) -> dict[str, Any]:
    contexts = None if OWNER in cond else read(cond)
    if contexts is None:
        return cond
    own = cond["model_conds"]["c_crossattn"]
    together = own._copy_with(contexts.encoded.to(own.cond))
    return {**cond, "model_conds": {**cond["model_conds"], "c_crossattn": together}, OWNER: owner, CONTEXTS: contexts}
