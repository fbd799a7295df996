"""The largest difference between two tensors."""

import math

import torch
from torch import Tensor


def largest_difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference between two tensors' entries; 0 for tensors without entries.

    Two NaNs, and two infinities of the same sign, are equal. Infinite where the shapes differ, and where one of two
    entries is finite and the other is not.
    """
    if a.shape != b.shape:
        return math.inf
    wide = torch.complex128 if a.is_complex() or b.is_complex() else torch.float64
    a, b = (each.detach().cpu().to(wide) for each in (a, b))
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, 0.0, (a - b).abs())
    return float(difference.nan_to_num(nan=math.inf).max()) if difference.numel() else 0.0
