"""What keeps a fine-tuned model from forgetting its class: nothing, the model's own loss (DCO), or images of the class."""

from dataclasses import dataclass, field
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

DCO_BETA = 100.0  # a tenth of the paper's, with which the micro world's validation concepts are hardly learnt


class Prior(Protocol):
    """How a fine-tune is held back. What it needs beyond the images to learn is asked of the `Task`."""

    @property
    def weight(self) -> float:
        """Of the loss on images of the class; 0 without them."""
        ...

    @property
    def needs_base_loss(self) -> bool:
        """Whether `balanced` needs the frozen model's own losses, a forward more."""
        ...

    def balanced(self, losses: Tensor, base: Tensor | None) -> Tensor:
        """What is minimised of the images' losses (B,), and of the frozen model's on the same images in ordinary words."""
        ...


@dataclass(frozen=True)
class NoPrior:
    """The reconstruction loss alone."""

    weight: float = field(default=0.0, init=False)
    needs_base_loss: bool = field(default=False, init=False)

    def balanced(self, losses: Tensor, base: Tensor | None) -> Tensor:
        return losses


@dataclass(frozen=True)
class DirectConsistency:
    """Direct Consistency Optimization (Lee et al. 2024): learn until the images are explained better than by the frozen model, and
    no further.

    The paper's -log sigmoid(-beta (loss - base)), times 2 / beta, so that its slope is the reconstruction loss's where both
    models explain an image equally well: weights of other terms mean the same with it and without.
    """

    beta: float = DCO_BETA
    weight: float = field(default=0.0, init=False)
    needs_base_loss: bool = field(default=True, init=False)

    def balanced(self, losses: Tensor, base: Tensor | None) -> Tensor:
        assert base is not None
        return 2 / self.beta * F.softplus(self.beta * (losses - base))


@dataclass(frozen=True)
class ClassImages:
    """Prior preservation (Ruiz et al. 2023): the loss on images of the class in its own word, added with a weight."""

    weight: float = 1.0
    needs_base_loss: bool = field(default=False, init=False)

    def balanced(self, losses: Tensor, base: Tensor | None) -> Tensor:
        return losses
