"""Values without data for the nodes of a recorded graph: shapes in which the batch size is a symbol."""

from collections.abc import Sequence

import torch
from torch import Tensor

from skiplab.graph.free_batch import BatchFit
from skiplab.graph.tape import Entry, Form
from skiplab.graph.torch_compat import FakeTensor, FakeTensorMode, symbolic_size

Size = int | torch.SymInt


class SymbolicValues:
    """Fake tensors for the entries of a tape. Those that shared memory in the run share it here."""

    def __init__(self, entries: Sequence[Entry], fit: BatchFit | None) -> None:
        self.entries, self.fit = entries, fit
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._sizes: dict[tuple[int, int], Size] = {}
        if fit is not None:
            self.mode, self._sizes[1, 0] = symbolic_size("batch", fit.size)
        self._memory: dict[int, Tensor] = {}  # number of a storage -> a tensor on it

    def of(self, number: int) -> FakeTensor:
        """The value of an entry that is a tensor."""
        form = self.entries[number].form
        assert form is not None
        shape, stride, offset = form.shape, form.stride, form.offset
        other = self.fit.second.entries[number].form if self.fit is not None else None
        if other is not None and (shape, stride, offset) != (other.shape, other.stride, other.offset):
            shape, stride = self._all(shape, other.shape), self._all(stride, other.stride)
            offset = self._one(offset, other.offset)
        base = self._memory.get(form.storage)
        if base is None:
            base = self._memory[form.storage] = torch.empty(1, dtype=form.dtype, device="meta")
        if base.dtype == form.dtype:
            value = base.as_strided(shape, stride, offset)  # type: ignore[arg-type]
        else:
            empty = torch.empty(0, dtype=form.dtype, device="meta")
            value = empty.set_(base.untyped_storage(), offset, shape, stride)  # type: ignore[call-overload]
        return FakeTensor(self.mode, value, form.device)

    def varying(self, number: int) -> list[int]:
        """The dimensions of an entry's value that follow the batch size."""
        assert self.fit is not None
        forms: list[Form | None] = [entries[number].form for entries in (self.entries, self.fit.second.entries)]
        pairs = zip(*(form.shape for form in forms if form is not None), strict=True)
        return [dim for dim, (one, other) in enumerate(pairs) if one != other]

    def size(self, a: int, b: int) -> Size:
        """The size a·B + b."""
        if (a, b) not in self._sizes:
            self._sizes[a, b] = a * self._sizes[1, 0] + b
        return self._sizes[a, b]

    def _all(self, mine: Sequence[int], its: Sequence[int]) -> tuple[Size, ...]:
        return tuple(map(self._one, mine, its))

    def _one(self, mine: int, its: int) -> Size:
        assert self.fit is not None
        return mine if mine == its else self.size(*self.fit.number(mine, its))
