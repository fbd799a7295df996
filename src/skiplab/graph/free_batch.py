"""Which numbers of a recorded run follow the batch size: found by a second run with one more sample.

A size n of the run at B samples that is n′ at B + 1 is (n′ − n)·B + b. Where b is not zero, as with a size of B² or of
B + 1, a third run must agree, since only B + 1 is linear.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skiplab.graph.tape import Entry, Ref, Tape

Linear = tuple[int, int]  # (a, b) of a·B + b


class FixedBatchError(Exception):
    """The batch size cannot vary; the message is the reason."""


@dataclass(frozen=True)
class BatchFit:
    """Two runs of one network with B and B + 1 samples.

    Attributes:
        size: B.
        first, second: the runs.
    """

    size: int
    first: Tape
    second: Tape

    def number(self, one: int, other: int) -> Linear:
        """How a number depends on the batch size."""
        return other - one, one - (other - one) * self.size

    def check(self) -> None:
        """FixedBatchError unless the second run calls the same operators on the same values."""
        mine, its = self.first.entries, self.second.entries
        for a, b in zip(mine, its, strict=False):
            if a.kind != b.kind or (a.kind in ("call", "item") and a.target != b.target):
                raise FixedBatchError(f"with another batch size `{b.target}` runs in place of `{a.target}`")
            if a.kind == "constant" and not _same_constant(a.target, b.target):
                raise FixedBatchError("a constant has another value with another batch size")
            if not self._alike((a.args, dict(a.kwargs)), (b.args, dict(b.kwargs))):
                raise FixedBatchError(f"`{a.target}` has other arguments with another batch size")
            if (a.form is None) != (b.form is None) or (a.form and len(a.form.shape) != len(b.form.shape)):  # type: ignore[union-attr]
                raise FixedBatchError(f"`{a.target}` gives another kind of value with another batch size")
        if len(mine) != len(its):
            raise FixedBatchError("with another batch size another number of operators runs")

    def needs_third_run(self) -> bool:
        """Whether a number is no plain multiple of the batch size."""
        return any(
            b for pair in zip(self.first.entries, self.second.entries, strict=True) for _, b in self._fits(*pair)
        )

    def check_third(self, third: Tape) -> None:
        """FixedBatchError unless a run with B + 3 samples has the sizes that the two others predict."""
        size = self.size + 3
        for entries in zip(self.first.entries, self.second.entries, third.entries, strict=False):
            forms = [entry.form for entry in entries]
            if any(form is None for form in forms):
                continue
            for one, other, now in zip(*(form.shape for form in forms), strict=True):  # type: ignore[union-attr]
                a, b = self.number(one, other)
                if a * size + b != now:
                    raise FixedBatchError(f"a size of `{entries[0].target}` is no linear function of the batch size")

    def _fits(self, mine: Entry, its: Entry) -> list[Linear]:
        forms = (mine.form, its.form)
        shapes = zip(forms[0].shape, forms[1].shape, strict=True) if forms[0] and forms[1] else ()
        return [self.number(one, other) for one, other in shapes if one != other]

    def _alike(self, one: Any, other: Any) -> bool:
        """Whether arguments are the same but for numbers."""
        if type(one) is not type(other):
            return False
        if isinstance(one, (list, tuple)):
            return len(one) == len(other) and all(map(self._alike, one, other))
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(self._alike(one[key], other[key]) for key in one)
        if type(one) is int:
            return True
        if type(one) is float:
            return one == other or self.scale(one, other) is not None or (math.isnan(one) and math.isnan(other))
        if isinstance(one, Ref):
            return one.number == other.number
        return one is other or isinstance(one, torch.Generator) or bool(one == other)

    def scale(self, one: float, other: float) -> int | None:
        """1 for a factor proportional to the batch size, −1 for one over it, None for any other."""
        n = self.size
        if math.isclose(one * (n + 1), other * n, rel_tol=1e-12):
            return 1
        return -1 if math.isclose(one * n, other * (n + 1), rel_tol=1e-12) else None


def _same_constant(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and (one.is_meta or torch.equal(one, other))
