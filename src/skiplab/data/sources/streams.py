"""Batches that a user's own callable makes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from torch import Tensor

from skiplab.data.sources.request import DataRequest
from skiplab.errors import DataError, ModelError
from skiplab.graph.torch_compat import pytree
from skiplab.loading.resolve import module_of


@dataclass(frozen=True, eq=False)
class Stream:
    """Pairs (inputs, target) from a callable, which is called anew for every pass; at most `limit` samples."""

    name: str
    make: Callable[[], Iterable[Any]]
    limit: int

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        left = self.limit
        for number, batch in enumerate(self._made(), start=1):
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise DataError(
                    f"{self.name}: batch {number} is a {type(batch).__name__} and no pair (inputs, target): yield "
                    "pairs, with None for no target"
                )
            size = _size(batch)
            yield tuple(batch) if not self.limit or size <= left else _cut(batch, left, size)
            left -= size
            if self.limit and left <= 0:
                return

    def example(self) -> Any:
        """The first batch's inputs."""
        for inputs, _ in islice(self, 1):
            return inputs
        raise DataError(f"{self.name} yields no batch: it should yield pairs (inputs, target)")

    def made(self) -> Any:
        """What the callable returns; DataError for whatever it raises."""
        try:
            return self.make()
        except Exception as error:
            raise DataError(f"{self.name} fails: {type(error).__name__}: {error}") from error

    def _made(self) -> Iterator[Any]:
        made = self.made()
        try:
            yield from made
        except Exception as error:
            raise DataError(f"{self.name} fails: {type(error).__name__}: {error}") from error


def stream(request: DataRequest) -> Stream:
    """`file.py:callable` or `package.module:callable`: a function that yields batches, or what can be iterated."""
    owner, _, name = request.spec.rpartition(":")
    try:
        module = module_of(owner)
    except ModelError as error:
        raise DataError(f"--data {request.spec}: {error}") from error.__cause__
    found: Any = getattr(module, name, None)
    if callable(found):
        return Stream(request.spec, cast(Callable[[], Iterable[Any]], found), request.samples)
    if isinstance(found, Iterable) and not isinstance(found, Iterator):
        return Stream(request.spec, lambda: found, request.samples)
    what = f"`{name}` is a {type(found).__name__}" if hasattr(module, name) else f"there is no `{name}` there"
    raise DataError(f"--data {request.spec}: {what}; give a function that yields pairs (inputs, target)")


def _size(batch: Any) -> int:
    tensors = [leaf for leaf in pytree.tree_leaves(batch[0]) if isinstance(leaf, Tensor) and leaf.ndim]
    return len(tensors[0]) if tensors else 1


def _cut(batch: Any, left: int, size: int) -> tuple[Any, Any]:
    """The first `left` samples of every tensor that has one entry a sample."""

    def cut(leaf: Any) -> Any:
        return leaf[:left] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == size else leaf

    inputs, target = batch
    plain = dict(inputs) if isinstance(inputs, Mapping) else inputs  # a library's own mapping has an own form
    return pytree.tree_map(cut, (plain, target))
