"""Explains the error of a model whose `forward` joins two values of different sizes."""

import linecache
import os
import re
import traceback
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from skiplab.errors import format_shape

_TORCH = str(Path(torch.__file__).parent) + os.sep
_SHOWN = 4
_CONCAT = re.compile(r"Sizes of tensors must match except in dimension (\d+)\. Expected size (\d+) but got size (\d+)")
_SUM = re.compile(
    r"The size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\) at non-singleton dimension (\d+)"
)
_IN_PLACE = re.compile(r"output with shape \[.*\] doesn't match the broadcast shape \[.*\]")

_HALVED = (
    "a size that halving or a convolution without padding has cut short does not come back whole: bring it to the "
    "other's size (`F.interpolate(x, size=skip.shape[2:])` or `F.pad`), or give inputs divisible by 2^k for k halvings"
)
_STRIDE = "one way goes down in resolution and the other does not: give the shortcut the branch's stride"
_WIDTH = "the widths differ: give the shortcut a projection to the branch's width (a 1x1 convolution, a linear layer)"
_GENERAL = "bring both to one shape before they are joined"


def explain(error: BaseException) -> str:
    """The tensors on the failing line with their shapes, and on a second line the fix; "" for any other error."""
    text = str(error)
    concat, added = _CONCAT.search(text), _SUM.search(text)
    if not (concat or added or _IN_PLACE.search(text)):
        return ""
    tensors = dict(islice(_tensors(error), _SHOWN))
    shapes = "; ".join(f"{name} {format_shape(tensor.shape)}" for name, tensor in tensors.items())
    ranks = {tensor.ndim for tensor in tensors.values()}
    rank = ranks.pop() if len(ranks) == 1 else 0
    if concat:
        along, a, b = map(int, concat.groups())
        advice = _advice(rank, _differing(list(tensors.values()), along, {a, b}), a, b)
    elif added:
        a, b, dim = map(int, added.groups())
        advice = _advice(rank, dim, a, b)
    else:
        advice = _GENERAL
    return (f" ({shapes})" if shapes else "") + f"\n{advice}"


def _advice(rank: int, dim: int | None, a: int, b: int) -> str:
    small, large = sorted((a, b))
    if rank >= 4 and dim is not None and dim >= 2:
        return _STRIDE if small and large % small == 0 else _HALVED
    if (rank >= 4 and dim == 1) or (rank in (2, 3) and dim == rank - 1 and large - small > 1):
        return _WIDTH
    return _GENERAL


def _differing(tensors: list[Tensor], along: int, sizes: set[int]) -> int | None:
    """The dimension, other than the one of the concatenation, in which tensors have these sizes."""
    rank = min((tensor.ndim for tensor in tensors), default=0)
    found = [dim for dim in range(rank) if dim != along and sizes <= {tensor.shape[dim] for tensor in tensors}]
    # the failing tensors may be made on the line itself: then only the concatenation of channels is known
    return found[0] if found else (2 if rank >= 4 and along == 1 else None)


def _tensors(error: BaseException) -> Iterator[tuple[str, Tensor]]:
    """Local tensors of the innermost frame that is not torch's: those named in the failing expression, or all."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    lines = traceback.extract_tb(error.__traceback__, limit=len(frames))  # whatever `sys.tracebacklimit` is
    inner = [(frame, line) for frame, line in zip(frames, lines, strict=True) if not line.filename.startswith(_TORCH)]
    if not inner:
        return
    frame, line = inner[-1]
    found = {name: value for name, value in frame.f_locals.items() if isinstance(value, (Tensor, list, tuple))}
    named = [name for name in _names(line) if name in found]
    parts = [part for name in named for part in _parts(name, found[name])]
    yield from parts if len(parts) > 1 else (part for name in found for part in _parts(name, found[name]))


def _parts(name: str, value: object) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        yield name, value
    elif isinstance(value, (list, tuple)):
        yield from ((f"{name}[{i}]", each) for i, each in enumerate(value) if isinstance(each, Tensor))


def _names(at: traceback.FrameSummary) -> list[str]:
    """The identifiers of the expression that was being evaluated, in order."""
    if at.lineno is None or at.end_lineno is None:
        return []
    lines = [linecache.getline(at.filename, number) for number in range(at.lineno, at.end_lineno + 1)]
    if at.colno is not None and at.end_colno is not None and lines:  # columns count bytes
        lines[-1] = lines[-1].encode()[: at.end_colno].decode(errors="ignore")
        lines[0] = lines[0].encode()[at.colno :].decode(errors="ignore")
    return list(dict.fromkeys(re.findall(r"[^\W\d]\w*", " ".join(lines))))
