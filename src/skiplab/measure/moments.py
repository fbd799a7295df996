"""Mean and standard deviation of numbers that come batch by batch."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Moments:
    """Of columns of numbers, without NaN, in constant memory; two parts are combined as in Chan et al. 1983."""

    def __init__(self) -> None:
        self.count = self.mean = self.squares = torch.zeros((), dtype=torch.double)

    def add(self, values: Tensor) -> None:
        """values: (samples, …): each entry beyond the first dimension is one column."""
        values = values.detach().double().cpu()
        known = ~values.isnan()
        count = known.sum(0).double()
        mean = torch.where(known, values, 0).sum(0) / count.clamp(min=1)
        squares = torch.where(known, values - mean, 0).square().sum(0)
        total = self.count + count
        gap, weight = mean - self.mean, count / total.clamp(min=1)
        self.squares = self.squares + squares + gap.square() * self.count * weight
        self.mean = self.mean + gap * weight
        self.count = total

    def means(self) -> Tensor:
        """NaN where there was no number."""
        return torch.where(self.count > 0, self.mean, torch.nan)

    def deviations(self) -> Tensor:
        """Of a sample (n − 1); NaN where there were fewer than two numbers."""
        return torch.where(self.count > 1, self.squares / (self.count - 1), torch.nan).sqrt()

    def columns(self) -> list[list[float]]:
        """For values (samples, rows, quantities), the list mean, deviation, mean, deviation, … of each row."""
        if not self.mean.ndim:  # nothing was added
            return []
        return torch.stack([self.means(), self.deviations()], dim=-1).flatten(1).tolist()


def column_names(quantities: Iterable[str]) -> list[str]:
    """The names of the numbers in a row of `Moments.columns`: each quantity, then its deviation."""
    return [quantity + end for quantity in quantities for end in ("", "_std")]
