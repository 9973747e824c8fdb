"""Further contexts of a CONDITIONING, put behind its own when a sampler starts."""

from typing import Any

import torch

from ..sampling.conditioning import FurtherContexts

CONTEXTS = "compinv_contexts"
"""The key under which an entry of a CONDITIONING holds its `FurtherContexts`."""

OWNER = "compinv_contexts_owner"
"""The key under which a sampler's conditioning names who has put them behind its own, and so sees to who reads which."""


CONTROLNET = "crossattn_controlnet"


def append_contexts(guider: Any, owner: object) -> None:
    """Put further contexts behind the own ones of a guider's conditionings, which are already as the model takes them.

    ComfyUI repeats what is shorter to the same length. What an unconditional branch reads stays as it is, and so does what a
    ControlNet reads, which knows no rules.
    """
    every = [cond for conds in guider.conds.values() for cond in conds]
    if not any(CONTEXTS in cond for cond in every):
        return
    controlled = any(cond.get("control") for cond in every)
    for kind, conds in guider.conds.items():
        if controlled:  # all of them, for ComfyUI runs together what has the same keys
            conds = [_for_controlnet(cond) for cond in conds]
        guider.conds[kind] = conds if "negative" in kind else [_appended(cond, owner) for cond in conds]


def _for_controlnet(cond: dict[str, Any]) -> dict[str, Any]:
    """With ComfyUI's own key for what a ControlNet reads instead of what the UNet does."""
    taken = cond["model_conds"]
    if CONTROLNET in taken or "c_crossattn" not in taken:
        return cond
    return {**cond, "model_conds": {**taken, CONTROLNET: taken["c_crossattn"]}}


def _appended(cond: dict[str, Any], owner: object) -> dict[str, Any]:
    if CONTEXTS not in cond or OWNER in cond:
        return cond
    further: FurtherContexts = cond[CONTEXTS]
    own = cond["model_conds"]["c_crossattn"]
    others = [encoded.to(own.cond).expand(len(own.cond), -1, -1) for encoded in further.encoded]
    together = own._copy_with(torch.cat([own.cond, *others], dim=1))
    return {**cond, "model_conds": {**cond["model_conds"], "c_crossattn": together}, OWNER: owner}
