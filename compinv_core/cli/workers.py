"""Several processes that learn together."""

import os
from typing import Any

import torch
from torch import Tensor

from ..training.task import Workers
from .config import ConfigError


def workers() -> Workers:
    """All processes that were started together, by `accelerate launch`."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Workers()
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ConfigError(
            "Several processes need the package accelerate, which is not installed; install it, or start one process."
        ) from error
    state = PartialState(cpu=not torch.cuda.is_available())

    def broadcast(own: Any) -> Any:
        box = [own]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def all_reduce(tensor: Tensor) -> None:
        torch.distributed.all_reduce(tensor)

    return Workers(state.process_index, state.num_processes, all_reduce, broadcast)
