"""Data sets for training: any source with classes, in memory, as a training and a test split."""

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from skiplab import data
from skiplab.data import DataSet, Split
from skiplab.data.sources.examples import Examples
from skiplab.data.sources.images import image_transform
from skiplab.data.sources.materialize import materialize
from skiplab.data.sources.open import open_source
from skiplab.data.sources.request import EVALUATION_PARTS, TRAINING_PARTS, DataRequest
from skiplab.data.sources.streams import Stream
from skiplab.errors import DataError, format_shape
from skiplab.loading.libraries import free_memory

HELD_OUT = 0.2

Shape = Sequence[int] | Callable[[], Sequence[int]]


def dataset(request: DataRequest, shape: Shape | None = None) -> DataSet:
    """The data that `request` names, for training.

    The test split is `request.split`, else the first part among test and validation. If there is no such part, or no
    training part, a random fifth of each class is held out, with a warning. A callable may return a `DataSet`, which is
    returned unchanged.

    Args:
        request: the data; `samples` is per split, and `batch_size` is not used.
        shape: (channels, height, width) of the resized images, or a function that returns it, called only for image
            files. With `normalize="data"` both splits use mean and standard deviation of the training split.

    Raises:
        DataError: the data have no classes, have several shapes, or need more than half of the free memory.
    """
    if request.spec == "digits" and not request.samples and request.split is None:
        return data.digits()
    first = open_source(request)
    if isinstance(first, Stream):
        returned = first.call()
        if isinstance(returned, DataSet):
            return returned
        first = materialize(replace(first, make=lambda: returned))
    train, test = _parts(request, first)
    y = _indices(train, train), _indices(test, train)
    x = _tensors(request, train, test, shape)
    classes = len(train.classes) or int(torch.cat(y).max()) + 1
    if classes < 2:
        raise DataError(f"{request.spec} has only one class: give at least two")
    return DataSet(request.spec, Split(x[0], y[0]), Split(x[1], y[1]), classes)


def _parts(request: DataRequest, first: Examples) -> tuple[Examples, Examples]:
    """The training part and the test part."""
    test = first.part if request.split else next((name for name in EVALUATION_PARTS if name in first.parts), None)
    train = next((name for name in (*TRAINING_PARTS, "") if name in first.parts), None)
    if request.split and train in (None, test):
        raise DataError(f"{request.spec} has no training part separate from `{test}`: leave out --split")
    if test is None or train is None:
        return _held_out(request, first)
    opened = {first.part: first}
    for name in {train, test} - set(opened):
        other = open_source(replace(request, split=name or None))
        assert isinstance(other, Examples)
        opened[name] = other
    return opened[train], opened[test]


def _held_out(request: DataRequest, whole: Examples) -> tuple[Examples, Examples]:
    """The samples without a random fifth of each class, and that fifth: at least one of two samples."""
    y = _indices(whole, whole)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(request.seed))
    is_held_out = torch.zeros(len(y), dtype=torch.bool)
    for label in y.unique():
        of_class = order[y[order] == label]
        is_held_out[of_class[: max(round(HELD_OUT * len(of_class)), int(len(of_class) > 1))]] = True
    if not is_held_out.any():
        raise DataError(f"{request.spec} has one sample per class, so none can be held out: give more")
    what = f"has only the part `{whole.part}`" if whole.part else "has no parts"
    warnings.warn(
        f"{request.spec} {what}: {int(is_held_out.sum()):,} of {len(y):,} samples are held out for the test, the same "
        f"share of each class, drawn with seed {request.seed}",
        stacklevel=3,
    )
    return _select(whole, ~is_held_out), _select(whole, is_held_out)


def _select(whole: Examples, mask: Tensor) -> Examples:
    x = whole.x[mask] if isinstance(whole.x, Tensor) else list(itertools.compress(whole.x, mask))
    assert whole.y is not None
    return replace(whole, x=x, y=whole.y[mask])


def _indices(part: Examples, train: Examples) -> Tensor:
    """Class indices (N,), int64; named classes are numbered as in the training part."""
    y = part.y
    if y is None:
        raise DataError(f"{part.name} has no classes: name their column with --column y=NAME")
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 or y.is_floating_point() or y.is_complex():
        raise DataError(
            f"{part.name}: y is {_describe(y)}, and training needs one class index per sample: give integers (N,)"
        )
    if len(y) and int(y.min()) < 0:
        raise DataError(f"{part.name}: label {int(y.min())} in {part.part or 'y'} is negative: remove these samples")
    if unknown := set(part.classes) - set(train.classes):
        raise DataError(
            f"{part.name}: part {part.part} has the class `{min(unknown)}`, which the training part lacks: add or "
            "remove it"
        )
    train_index = torch.tensor([train.classes.index(name) for name in part.classes])
    return train_index[y] if part.classes else y.long()


def _tensors(request: DataRequest, train: Examples, test: Examples, shape: Shape | None) -> tuple[Tensor, Tensor]:
    """The inputs of both parts, (N, …)."""
    if not isinstance(train.x, Tensor) or not isinstance(test.x, Tensor):
        return _images(request, train, test, shape)
    if train.x.shape[1:] != test.x.shape[1:]:
        raise DataError(f"{request.spec}: the parts have {_describe(train.x)} and {_describe(test.x)}: give one shape")
    if torch.uint8 in (train.x.dtype, test.x.dtype):
        raise DataError(f"{request.spec} has inputs of dtype uint8: save them as float32, scaled for the model")
    dtype = torch.get_default_dtype()
    train_x, test_x = (x.to(dtype) if x.is_floating_point() else x for x in (train.x, test.x))
    return train_x, test_x


def _images(request: DataRequest, train: Examples, test: Examples, shape: Shape | None) -> tuple[Tensor, Tensor]:
    if shape is None:
        raise DataError(f"{request.spec} has image files: give `shape`, the shape to resize them to")
    assert not isinstance(train.x, Tensor)
    assert not isinstance(test.x, Tensor)
    resized = tuple(shape() if callable(shape) else shape)
    size = 4 * math.prod(resized) * (len(train) + len(test))
    if size > free_memory() / 2:
        raise DataError(
            f"{request.spec}: {len(train) + len(test):,} images of {format_shape(resized)} take "
            f"{size / 2**30:,.1f} GiB, more than half of the free memory: give --samples, or a smaller --input"
        )
    transform = image_transform(resized, train.x, request.normalize)
    return transform(train.x), transform(test.x)


def _describe(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}".removeprefix("torch.")
