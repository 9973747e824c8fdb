"""Directional Textual Inversion (Kim et al. 2026): vectors keep one length, and Riemannian SGD learns their directions."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CONCENTRATION = 1e-4  # the paper's kappa


@dataclass(frozen=True, eq=False)
class Sphere:
    """Where vectors of one length lie.

    Attributes:
        radius: that length.
        mean: (E,), of length 1: the mean direction of the von Mises-Fisher prior, the class word's.
    """

    radius: float
    mean: Tensor

    def project(self, vectors: Tensor) -> Tensor:
        """Vectors (n, E) at the sphere's length."""
        return self.radius * F.normalize(vectors, dim=-1)

    def step(self, vectors: Tensor, gradient: Tensor, angle: float) -> Tensor:
        """A step of Riemannian SGD on the loss and the prior.

        Args:
            vectors, gradient: (n, E), on the sphere, and the loss's gradient at them.
            angle: radians that each vector turns by, however steep the loss; as tan, which is the same for small ones.
        """
        directions = F.normalize(vectors, dim=-1)
        uphill = self.radius * gradient - CONCENTRATION * self.mean
        tangent = uphill - (uphill * directions).sum(dim=-1, keepdim=True) * directions
        moved = self.project(directions - angle * F.normalize(tangent, dim=-1))
        # The prior must not take a whole step alone, where the loss says nothing: not finite, or no prompt of the batch has the word.
        return torch.where(gradient.any(dim=-1, keepdim=True), moved, vectors)
