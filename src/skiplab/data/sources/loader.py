"""Batches for a captured program, in its shape and dtype and on its device; each pass starts anew."""

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass

import torch
from torch import Tensor

from skiplab.data.bound_batches import Batch, validate_batches
from skiplab.data.sources.examples import Examples
from skiplab.data.sources.images import ImageTransform, image_transform
from skiplab.data.sources.request import DataRequest
from skiplab.data.sources.streams import Stream
from skiplab.errors import DataError, format_shape
from skiplab.graph.program import Program
from skiplab.graph.torch_compat import pytree

Batches = Iterable[Batch]  # any number of passes


@dataclass(frozen=True, eq=False)
class _TensorBatches:
    """Samples in batches of `size`, with the dtype and device of `like`."""

    examples: Examples
    size: int
    like: Tensor
    transform: ImageTransform | None
    drop_last: bool  # leave out a last batch of fewer samples

    def __len__(self) -> int:
        full, rest = divmod(len(self.examples), self.size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        x, y = self.examples.x, self.examples.y
        stop = len(x) - len(x) % self.size if self.drop_last else len(x)
        for start in range(0, stop, self.size):
            samples = slice(start, min(start + self.size, stop))
            inputs = self.transform(x[samples]) if self.transform and not isinstance(x, Tensor) else x[samples]
            assert isinstance(inputs, Tensor)
            target = None if y is None else y[samples].to(self.like.device)
            yield inputs.to(self.like.device, self.like.dtype), target


@dataclass(frozen=True, eq=False)
class _StreamBatches:
    """The batches of a stream, on `device`."""

    stream: Stream
    device: torch.device

    def __iter__(self) -> Iterator[Batch]:
        for inputs, target in self.stream:
            plain = dict(inputs) if hasattr(inputs, "keys") else inputs
            yield pytree.tree_map_only(Tensor, lambda tensor: tensor.to(self.device), (plain, target))


@dataclass(frozen=True, eq=False)
class WithProgress:
    """The same batches, with a call of `progress(done, total)` before each; `total` is None if unknown."""

    batches: Batches
    progress: Callable[[int, int | None], None]

    def __iter__(self) -> Iterator[Batch]:
        total = len(self.batches) if isinstance(self.batches, Sized) else None
        for done, batch in enumerate(self.batches):
            self.progress(done, total)
            yield batch


@dataclass(frozen=True, eq=False)
class _SplitBatches:
    """The first three quarters of every batch, or with `held_out` the last quarter."""

    program: Program
    batches: Batches
    held_out: bool

    def __iter__(self) -> Iterator[Batch]:
        for batch in validate_batches(self.program, self.batches):
            cut = batch.size - batch.size // 4
            part = batch.part(cut, batch.size) if self.held_out else batch.part(0, cut)
            if part.size:
                yield part.inputs, part.target


def batches(program: Program, source: Examples | Stream, request: DataRequest) -> Batches:
    """The batches of a source, for a program.

    Raises:
        DataError: shape, dtype or number of inputs do not match those of the program.
    """
    device = _example_tensor(program).device
    if isinstance(source, Stream):
        return _StreamBatches(source, device)
    like = _only_input(program, source)
    wanted = tuple(like.shape[1:])
    prepare = None
    if not isinstance(source.x, Tensor):
        prepare = image_transform(wanted, source.x, request.normalize)
    elif tuple(source.x.shape[1:]) != wanted:
        own, taken = (format_shape(shape, "single numbers") for shape in (source.x.shape[1:], wanted))
        raise DataError(
            f"{program.name} was captured with {taken}, and {source.name} has samples of {own}: leave out --input "
            "and --img-size, or build the model for these samples with --in-channels or --kwarg"
        )
    elif source.x.is_floating_point() != like.is_floating_point():
        raise DataError(
            f"{program.name} takes {like.dtype}, and {source.name} has {source.x.dtype}: save the data as "
            f"{like.dtype}, scaled as in training"
        )
    fixed = not program.dynamic_batch
    if fixed and len(source) < len(like):
        raise DataError(
            f"{program.name} takes batches of exactly {len(like)} samples, and {source.name} has {len(source)}: give "
            "more samples"
        )
    return _TensorBatches(source, len(like) if fixed else request.batch_size, like, prepare, drop_last=fixed)


def split_batches(program: Program, batches: Batches) -> tuple[Batches, Batches]:
    """Two sets of batches: the first three quarters of every batch, and the last quarter."""
    return _SplitBatches(program, batches, held_out=False), _SplitBatches(program, batches, held_out=True)


def _example_tensor(program: Program) -> Tensor:
    return next(leaf for leaf in program.flatten(*program.example) if isinstance(leaf, Tensor))


def _only_input(program: Program, source: Examples) -> Tensor:
    """The input of a program with one input; raises DataError for several, since `source` has one tensor."""
    tensors = [leaf for leaf in program.flatten(*program.example) if isinstance(leaf, Tensor)]
    if len(tensors) != 1:
        raise DataError(
            f"{program.name} takes {len(tensors)} inputs, and {source.name} has one: give --data file.py:callable with "
            "a function that yields ((first, second), target)"
        )
    return tensors[0]
