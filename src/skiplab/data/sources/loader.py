"""Batches as a captured program takes them: in its shape, of its type, on its device, anew for every pass."""

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass

import torch
from torch import Tensor

from skiplab.data.bound_batches import Batch, validate_batches
from skiplab.data.sources.examples import Examples
from skiplab.data.sources.images import Pixels, pixels
from skiplab.data.sources.request import DataRequest
from skiplab.data.sources.streams import Stream
from skiplab.errors import DataError, format_shape
from skiplab.graph.program import Program
from skiplab.graph.torch_compat import pytree

Batches = Iterable[Batch]  # that can be gone through any number of times


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Examples in batches of `size`, like the program's own example."""

    examples: Examples
    size: int
    like: Tensor
    pixels: Pixels | None
    whole: bool  # leave out a last batch that is smaller

    def __len__(self) -> int:
        whole, rest = divmod(len(self.examples), self.size)
        return whole + (rest > 0 and not self.whole)

    def __iter__(self) -> Iterator[Batch]:
        x, y = self.examples.x, self.examples.y
        stop = len(x) - len(x) % self.size if self.whole else len(x)
        for start in range(0, stop, self.size):
            part = slice(start, min(start + self.size, stop))
            chosen = self.pixels(x[part]) if self.pixels and not isinstance(x, Tensor) else x[part]
            assert isinstance(chosen, Tensor)
            target = None if y is None else y[part].to(self.like.device)
            yield chosen.to(self.like.device, self.like.dtype), target


@dataclass(frozen=True, eq=False)
class _Moved:
    """A stream's batches on another device."""

    stream: Stream
    device: torch.device

    def __iter__(self) -> Iterator[Batch]:
        for inputs, target in self.stream:
            plain = dict(inputs) if hasattr(inputs, "keys") else inputs
            yield pytree.tree_map_only(Tensor, lambda tensor: tensor.to(self.device), (plain, target))


@dataclass(frozen=True, eq=False)
class WithProgress:
    """The same batches, telling how many of them have been taken: `progress(done, total)`, None if unknown."""

    batches: Batches
    progress: Callable[[int, int | None], None]

    def __iter__(self) -> Iterator[Batch]:
        total = len(self.batches) if isinstance(self.batches, Sized) else None
        for done, batch in enumerate(self.batches):
            self.progress(done, total)
            yield batch


@dataclass(frozen=True, eq=False)
class _Share:
    """Of every batch the first three quarters, or what is left."""

    program: Program
    batches: Batches
    held: bool

    def __iter__(self) -> Iterator[Batch]:
        for given in validate_batches(self.program, self.batches):
            cut = given.size - given.size // 4
            part = given.part(cut, given.size) if self.held else given.part(0, cut)
            if part.size:
                yield part.inputs, part.target


def batches(program: Program, source: Examples | Stream, request: DataRequest) -> Batches:
    """What measures run on; DataError when the data do not fit the program."""
    device = _like(program).device
    if isinstance(source, Stream):
        return _Moved(source, device)
    like = _only_input(program, source)
    wanted = tuple(like.shape[1:])
    prepare = None
    if not isinstance(source.x, Tensor):
        prepare = pixels(wanted, source.x, request.normalize)
    elif tuple(source.x.shape[1:]) != wanted:
        own, taken = (format_shape(shape, "single numbers") for shape in (source.x.shape[1:], wanted))
        raise DataError(
            f"{source.name} has examples of {own}, and {program.name} was captured with {taken}: leave out --input "
            "where the model takes them, or build it for them with --kwargs"
        )
    elif source.x.is_floating_point() != like.is_floating_point():
        raise DataError(
            f"{source.name} holds {source.x.dtype} and {program.name} takes {like.dtype}: save it as that, with "
            "pixels scaled as the model was trained"
        )
    fixed = not program.dynamic_batch
    if fixed and len(source) < len(like):
        raise DataError(
            f"{program.name} takes batches of {len(like)} only, and {source.name} has {len(source)} examples"
        )
    return _Drawn(source, len(like) if fixed else request.batch_size, like, prepare, whole=fixed)


def split_batches(program: Program, batches: Batches) -> tuple[Batches, Batches]:
    """Three quarters of every batch to learn from, and the other quarter to judge by."""
    return _Share(program, batches, held=False), _Share(program, batches, held=True)


def _like(program: Program) -> Tensor:
    return next(leaf for leaf in program.flatten(*program.example) if isinstance(leaf, Tensor))


def _only_input(program: Program, source: Examples) -> Tensor:
    """A tensor of examples fits a program of one input alone."""
    tensors = [leaf for leaf in program.flatten(*program.example) if isinstance(leaf, Tensor)]
    if len(tensors) != 1:
        raise DataError(
            f"{program.name} takes {len(tensors)} inputs, and {source.name} has one: give --data file.py:callable, "
            "which yields ((first, second), target)"
        )
    return tensors[0]
