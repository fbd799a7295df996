"""Bootstrap intervals of mean differences."""

import numpy as np
import torch
from torch import Tensor

RESAMPLES = 2000


def intervals(differences: Tensor, sizes: Tensor, seed: int) -> np.ndarray:
    """Percentile bootstrap 95 % intervals of weighted means; Efron & Tibshirani 1993, §13.3.

    All columns use the same resamples, so that they stay comparable.

    Args:
        differences: (units, columns), between two networks on the same samples: a paired bootstrap.
        sizes: (units,), the number of samples in each unit.
        seed: of the resamples.

    Returns:
        (2, columns): the lower ends and the upper. NaN for a single unit, and for a column that is not finite.
    """
    units = len(differences)
    if units < 2:
        return np.full((2, differences.shape[1]), np.nan)
    # A matrix of weights times all columns takes a twentieth of the time of `scipy.stats.bootstrap`, which copies the
    # columns for each resample.
    finite = torch.where(differences.isfinite().all(0), differences, torch.nan)
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, 2**22 // units)  # 32 MiB of weights
    means = []
    for start in range(0, RESAMPLES, at_once):
        drawn = torch.randint(units, (min(at_once, RESAMPLES - start), units), generator=generator)
        weights = torch.zeros(drawn.shape, dtype=torch.double).scatter_add_(1, drawn, sizes[drawn])
        means.append(weights @ finite / weights.sum(1, keepdim=True))
    return np.quantile(torch.cat(means).numpy(), [0.025, 0.975], axis=0)
