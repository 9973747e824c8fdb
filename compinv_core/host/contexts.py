"""Further contexts of a CONDITIONING, put behind its own when a sampler starts."""

from typing import Any

import torch

from ..sampling.conditioning import FurtherContexts

CONTEXTS = "compinv_contexts"
"""The key under which an entry of a CONDITIONING holds its `FurtherContexts`."""

OWNER = "compinv_contexts_owner"
"""The key under which a sampler's conditioning names who has put them behind its own, and so sees to who reads which."""


def append_contexts(guider: Any, owner: object) -> None:
    """Put further contexts behind the own ones of a guider's conditionings, which are already as the model takes them.

    ComfyUI repeats what is shorter to the same length. What an unconditional branch reads stays as it is.
    """
    for kind, conds in guider.conds.items():
        if "negative" not in kind and any(CONTEXTS in cond for cond in conds):
            guider.conds[kind] = [_appended(cond, owner) for cond in conds]


def _appended(cond: dict[str, Any], owner: object) -> dict[str, Any]:
    if CONTEXTS not in cond or OWNER in cond:
        return cond
    further: FurtherContexts = cond[CONTEXTS]
    own = cond["model_conds"]["c_crossattn"]
    others = [encoded.to(own.cond).expand(len(own.cond), -1, -1) for encoded in further.encoded]
    together = own._copy_with(torch.cat([own.cond, *others], dim=1))
    return {**cond, "model_conds": {**cond["model_conds"], "c_crossattn": together}, OWNER: owner}
