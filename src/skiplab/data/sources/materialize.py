"""The batches of a stream, concatenated in memory."""

from typing import Any

import torch
from torch import Tensor

from skiplab.data.sources.examples import Examples
from skiplab.data.sources.streams import Stream
from skiplab.errors import DataError
from skiplab.loading.libraries import free_memory


def materialize(stream: Stream) -> Examples:
    """All samples of a stream up to its limit, as one part.

    Raises:
        DataError: inputs or targets are not one tensor, batches differ in shape, or they take more than a quarter of
            the free memory (concatenation needs the same amount again).
    """
    x: list[Tensor] = []
    y: list[Tensor] = []
    used, limit = 0, free_memory() / 4
    for inputs, target in stream:
        x.append(_tensor(stream, inputs, "inputs"))
        y.append(_tensor(stream, target, "targets"))
        used += x[-1].nbytes + y[-1].nbytes
        if used > limit:
            raise DataError(
                f"{stream.name}: the first {sum(map(len, x)):,} samples take more than a quarter of the free memory, "
                "and training keeps all samples in memory: give --samples"
            )
    if not x:
        raise DataError(f"{stream.name} yields no batch: yield pairs (inputs, target)")
    try:
        joined = torch.cat(x), torch.cat(y)
    except RuntimeError as error:
        raise DataError(
            f"{stream.name} yields batches of different shapes: {error}; yield samples of one shape"
        ) from error
    return Examples(stream.name, "", *joined, total=len(joined[0]))


def _tensor(stream: Stream, value: Any, what: str) -> Tensor:
    if isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Tensor) or not value.ndim:
        kind = "single numbers" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise DataError(f"{stream.name} yields {kind} as {what}: yield a tensor with one entry per sample")
    return value.detach().cpu()
