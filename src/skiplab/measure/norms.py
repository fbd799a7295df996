"""Euclidean norms that do not underflow."""

import torch
from torch import Tensor

_SAFE = (1e-15, 1e15)  # norms whose squares fit into single precision, and those of their larger entries


def norm(value: Tensor, dim: int | None = None) -> Tensor:
    """In double precision: the squares of a vanishing gradient underflow in single.

    On a CPU double precision takes forty times as long, so it is used only where the norm in single precision is
    out of range.
    """
    if value.device.type == "cpu" and value.dtype == torch.float32:
        found = torch.linalg.vector_norm(value, dim=dim)
        if bool(((found > _SAFE[0]) & (found < _SAFE[1])).all()):
            return found.double()
    return torch.linalg.vector_norm(value, dim=dim, dtype=torch.double)
