"""The batches of a stream, put together in memory."""

from typing import Any

import torch
from torch import Tensor

from skiplab.data.sources.examples import Examples
from skiplab.data.sources.streams import Stream
from skiplab.errors import DataError
from skiplab.loading.libraries import free_memory


def gathered(stream: Stream) -> Examples:
    """All samples of a stream up to its limit, as one part.

    Raises `DataError` where inputs are no single tensor, a target is missing, batches differ in shape, or they take
    more than a quarter of the memory that is free (putting them together takes as much again).
    """
    x: list[Tensor] = []
    y: list[Tensor] = []
    taken, most = 0, free_memory() / 4
    for inputs, target in stream:
        x.append(_tensor(stream, inputs, "inputs"))
        y.append(_tensor(stream, target, "targets"))
        taken += x[-1].nbytes + y[-1].nbytes
        if taken > most:
            raise DataError(
                f"{stream.name}: its first {sum(map(len, x)):,} samples take more than a quarter of the free memory, "
                "and training keeps all of them: give --samples"
            )
    if not x:
        raise DataError(f"{stream.name} yields no batch: it should yield pairs (inputs, target)")
    try:
        together = torch.cat(x), torch.cat(y)
    except RuntimeError as error:
        raise DataError(f"{stream.name}: its batches differ in shape: {error}") from error
    return Examples(stream.name, "", *together, total=len(together[0]))


def _tensor(stream: Stream, value: Any, what: str) -> Tensor:
    if isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Tensor) or not value.ndim:
        kind = "single numbers" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise DataError(f"{stream.name} gives {kind} for {what}: training takes a tensor with one entry a sample")
    return value.detach().cpu()
