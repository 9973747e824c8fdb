"""The energy of a layout: attention that strays outside its subject's region."""

from collections.abc import Sequence

import torch
from torch import Tensor


def layout_energy(maps: Sequence[Tensor], owners: Sequence[int], cells: Sequence[Tensor]) -> Tensor:
    """Attention that strays outside its subject's region (Zhang et al. 2024, spatial inversion).

    E = mean_i mean_{p in P_i} mean_A (1 - sum_{R_i} A_p / sum A_p)^2

    Args:
        maps: for each used block, (B, P, h, w).
        owners: P indices of subjects: whose token each column is.
        cells: for each used block, (S, h, w) in 0..1: the subjects' regions.

    Returns:
        (B,), each in [0, 1]: 0 when every subject keeps to its region, 1 when none enters it.
    """
    strays: list[Tensor] = []
    for attention, regions in zip(maps, cells, strict=True):
        inside = (attention * regions.to(attention)[list(owners)]).sum(dim=(-2, -1))
        total = attention.sum(dim=(-2, -1)).clamp_min(1e-8)
        strays.append((1 - inside / total).square())
    of_columns = torch.stack(strays).mean(dim=0)  # (B, P)
    tokens = [[i for i, owner in enumerate(owners) if owner == subject] for subject in range(max(owners) + 1)]
    of_subjects = [of_columns[:, own].mean(dim=1) for own in tokens]
    return torch.stack(of_subjects).mean(dim=0)
