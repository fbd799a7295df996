"""Batches from a callable of the user."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from torch import Tensor

from skiplab.data.sources.request import DataRequest
from skiplab.errors import DataError, ModelError
from skiplab.graph.torch_compat import pytree
from skiplab.loading.user_code import load_module


@dataclass(frozen=True, eq=False)
class Stream:
    """Batches (inputs, target) from a callable, which is called again for each pass.

    Attributes:
        name: name of the data, as the user wrote it.
        make: the callable.
        limit: largest number of samples per pass; 0 for all.
    """

    name: str
    make: Callable[[], Iterable[Any]]
    limit: int

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        left = self.limit
        for number, batch in enumerate(self._iterate(), start=1):
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise DataError(
                    f"{self.name}: batch {number} is a {type(batch).__name__}: yield pairs (inputs, target), with None "
                    "for no target"
                )
            size = _size(batch)
            yield tuple(batch) if not self.limit or size <= left else _truncated(batch, left, size)
            left -= size
            if self.limit and left <= 0:
                return

    def example(self) -> Any:
        """The first batch's inputs."""
        for inputs, _ in islice(self, 1):
            return inputs
        raise DataError(f"{self.name} yields no batch: yield pairs (inputs, target)")

    def call(self) -> Any:
        """Calls the callable; raises DataError for any error in it."""
        try:
            return self.make()
        except Exception as error:
            raise DataError(f"{self.name} fails: {type(error).__name__}: {error}") from error

    def _iterate(self) -> Iterator[Any]:
        batches = self.call()
        try:
            yield from batches
        except Exception as error:
            raise DataError(f"{self.name} fails: {type(error).__name__}: {error}") from error


def stream(request: DataRequest) -> Stream:
    """Batches of `file.py:callable` or `package.module:callable`: of a function that yields them, or of a DataLoader.

    Raises:
        DataError: the module cannot be imported, or has neither under this name.
    """
    owner, _, name = request.spec.rpartition(":")
    try:
        module = load_module(owner)
    except ModelError as error:
        raise DataError(f"--data {request.spec}: {error}") from error.__cause__
    found: Any = getattr(module, name, None)
    if callable(found):
        return Stream(request.spec, cast(Callable[[], Iterable[Any]], found), request.samples)
    if isinstance(found, Iterable) and not isinstance(found, Iterator):
        return Stream(request.spec, lambda: found, request.samples)
    what = f"`{name}` is a {type(found).__name__}" if hasattr(module, name) else f"{owner} has no `{name}`"
    raise DataError(f"--data {request.spec}: {what}; give a function that yields pairs (inputs, target)")


def _size(batch: Any) -> int:
    tensors = [leaf for leaf in pytree.tree_leaves(batch[0]) if isinstance(leaf, Tensor) and leaf.ndim]
    return len(tensors[0]) if tensors else 1


def _truncated(batch: Any, left: int, size: int) -> tuple[Any, Any]:
    """The first `left` samples of every tensor with one entry per sample."""

    def truncate(leaf: Any) -> Any:
        return leaf[:left] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == size else leaf

    inputs, target = batch
    plain = dict(inputs) if isinstance(inputs, Mapping) else inputs  # pytree does not know mappings of libraries
    return pytree.tree_map(truncate, (plain, target))
