"""Data to learn from: any source whose examples have classes, in memory, with a part to be judged by."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from skiplab import data
from skiplab.data import DataSet, Split
from skiplab.data.sources.examples import Examples
from skiplab.data.sources.images import pixels
from skiplab.data.sources.materialize import gathered
from skiplab.data.sources.open import open_source
from skiplab.data.sources.request import EVALUATION_PARTS, TRAINING_PARTS, DataRequest
from skiplab.data.sources.streams import Stream
from skiplab.errors import DataError, format_shape
from skiplab.loading.libraries import free_memory

HELD_OUT = 0.2

Shape = Sequence[int] | Callable[[], Sequence[int]]


def dataset(asked: DataRequest, shape: Shape | None = None) -> DataSet:
    """The data that `asked` names, to train on.

    Parts are the data's own: the training part, and of test and validation the first that there is, or `asked.split`.
    Where they have no two, a fifth of each class is held out at random from `asked.seed`, with a warning. Of each part
    at most `asked.samples` examples are drawn, all for 0. A callable may return a `DataSet`, which is taken as it is.

    Args:
        asked: which data; `batch` does not matter.
        shape: (channels, height, width) to which pictures are brought, or a function that gives it, called for
            pictures alone. Pictures normalised by their data take the training part's mean and deviation.

    Raises `DataError` for data without classes, of too many shapes, or more than half of the free memory holds.
    """
    if asked.spec == "digits" and not asked.samples and asked.split is None:
        return data.digits()
    first = open_source(asked)
    if isinstance(first, Stream):
        made = first.made()
        if isinstance(made, DataSet):
            return made
        first = gathered(replace(first, make=lambda: made))
    learned, judged = _parts(asked, first)
    known = _indices(learned, learned), _indices(judged, learned)
    x = _tensors(asked, learned, judged, shape)
    train, test = (Split(*pair) for pair in zip(x, known, strict=True))
    classes = len(learned.classes) or int(torch.cat(known).max()) + 1
    if classes < 2:
        raise DataError(f"{asked.spec} has one class, of which nothing can be learned: give at least two")
    return DataSet(asked.spec, train, test, classes)


def _parts(asked: DataRequest, first: Examples) -> tuple[Examples, Examples]:
    """What is learned from, and what it is judged by."""
    judge = first.part if asked.split else next((name for name in EVALUATION_PARTS if name in first.parts), None)
    learn = next((name for name in (*TRAINING_PARTS, "") if name in first.parts), None)
    if asked.split and learn in (None, judge):
        raise DataError(f"{asked.spec} has no part `train` to learn from beside `{judge}`: leave out --split")
    if judge is None or learn is None:
        return _held_out(asked, first)
    found = {first.part: first}
    for name in {learn, judge} - set(found):
        other = open_source(replace(asked, split=name or None))
        assert isinstance(other, Examples)
        found[name] = other
    return found[learn], found[judge]


def _held_out(asked: DataRequest, whole: Examples) -> tuple[Examples, Examples]:
    """A fifth of each class, at least one example of it where there are two."""
    y = _indices(whole, whole)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(asked.seed))
    held = torch.zeros(len(y), dtype=torch.bool)
    for label in y.unique():
        own = order[y[order] == label]
        held[own[: max(round(HELD_OUT * len(own)), int(len(own) > 1))]] = True
    if not held.any():
        raise DataError(f"{asked.spec} has one example of each class, so none can be held out: give more")
    what = f"has no part but `{whole.part}`" if whole.part else "has no parts"
    warnings.warn(
        f"{asked.spec} {what}: {int(held.sum()):,} of {len(y):,} examples are held out to judge by, the same share of "
        f"each class, drawn from seed {asked.seed}",
        stacklevel=3,
    )
    return _chosen(whole, ~held), _chosen(whole, held)


def _chosen(whole: Examples, mask: Tensor) -> Examples:
    x = whole.x[mask] if isinstance(whole.x, Tensor) else [p for p, kept in zip(whole.x, mask, strict=True) if kept]
    assert whole.y is not None
    return replace(whole, x=x, y=whole.y[mask])


def _indices(part: Examples, learned: Examples) -> Tensor:
    """Class indices (N,), int64; of classes with names, as the training part counts them."""
    y = part.y
    if y is None:
        raise DataError(f"{part.name} has no classes to learn: say where they are with --column y=NAME")
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 or y.is_floating_point() or y.is_complex():
        raise DataError(f"{part.name}: training needs a class index for each example, and y is {_told(y)}")
    if len(y) and int(y.min()) < 0:
        raise DataError(f"{part.name}: label {int(y.min())} in {part.part or 'y'} is no class: leave it out")
    if unknown := set(part.classes) - set(learned.classes):
        raise DataError(f"{part.name}: part {part.part} has the class `{min(unknown)}`, and the training part has not")
    where = torch.tensor([learned.classes.index(name) for name in part.classes])
    return where[y] if part.classes else y.long()


def _tensors(asked: DataRequest, learned: Examples, judged: Examples, shape: Shape | None) -> tuple[Tensor, Tensor]:
    """Both parts as the model takes them."""
    if not isinstance(learned.x, Tensor) or not isinstance(judged.x, Tensor):
        return _pictures(asked, learned, judged, shape)
    if learned.x.shape[1:] != judged.x.shape[1:]:
        raise DataError(f"{asked.spec}: the parts hold {_told(learned.x)} and {_told(judged.x)}: give one shape")
    if torch.uint8 in (learned.x.dtype, judged.x.dtype):
        raise DataError(f"{asked.spec} holds bytes: save them as float32, scaled as the model should see them")
    kind = torch.get_default_dtype()
    first, second = (x.to(kind) if x.is_floating_point() else x for x in (learned.x, judged.x))
    return first, second


def _pictures(asked: DataRequest, learned: Examples, judged: Examples, shape: Shape | None) -> tuple[Tensor, Tensor]:
    if shape is None:
        raise DataError(f"{asked.spec} holds pictures: say to which shape they are brought")
    assert not isinstance(learned.x, Tensor)
    assert not isinstance(judged.x, Tensor)
    wanted = tuple(shape() if callable(shape) else shape)
    size = 4 * math.prod(wanted) * (len(learned) + len(judged))
    if size > free_memory() / 2:
        raise DataError(
            f"{asked.spec}: {len(learned) + len(judged):,} pictures of {format_shape(wanted)} take "
            f"{size / 2**30:,.1f} GiB, more than half of the free memory: give --samples, or a smaller --input"
        )
    prepare = pixels(wanted, learned.x, asked.normalize)
    return prepare(learned.x), prepare(judged.x)


def _told(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}".removeprefix("torch.")
