"""Dimensions of tensors as tuples of axes. Axes of several values share what is known about them.

A dimension is a tuple of axes, the slowest first: windows of an image folded into the batch are (samples, rows of
windows, columns of windows). A reshape splits and joins axes; two values that are added have the same ones.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from torch.fx import Node

Role = Literal["samples", "channels", "positions"]
Dim = tuple["Axis", ...]


class _Knowledge:
    """The role that several axes share: known, assumed until another operator corrects it, or unknown."""

    def __init__(self, role: Role | None = None, assumed: bool = False) -> None:
        self.role: Role | None = role
        self.assumed = assumed
        self.same: _Knowledge | None = None

    def root(self) -> "_Knowledge":
        root = self
        while root.same is not None:
            root = root.same
        return root


class Axis:
    """One axis of one or more values, with its role and the axes that it is split into, as far as known."""

    def __init__(self, size: int, like: "Axis | None" = None) -> None:
        """like: an axis with the same role, perhaps of another size."""
        self.size = size
        self.parts: Dim = ()
        self._knowledge = _Knowledge() if like is None else like._knowledge

    @property
    def role(self) -> Role | None:
        return self._knowledge.root().role

    @property
    def is_assumed(self) -> bool:
        return self._knowledge.root().assumed

    def learn(self, role: Role, *, assumed: bool = False) -> None:
        """Sets the role, unless it is known already."""
        root = self._knowledge.root()
        if root.role is None:
            root.role, root.assumed = role, assumed

    def correct(self, role: Role) -> None:
        """Replaces an assumed role."""
        root = self._knowledge.root()
        root.role, root.assumed = role, False

    def identify(self, other: "Axis") -> None:
        """Makes this axis and another one of the same size one axis, unless their roles are known to differ."""
        mine, its = self._knowledge.root(), other._knowledge.root()
        if self is other or (None not in (mine.role, its.role) and mine.role != its.role):
            return
        if mine is not its:
            if mine.role and its.role:  # one role: known where either of them is known
                mine.assumed = mine.assumed and its.assumed
            mine.role, mine.assumed = (mine.role, mine.assumed) if mine.role else (its.role, its.assumed)
            its.same = mine
        other.parts = (self,)

    def split(self, outer: int) -> Dim:
        """Splits the axis into one of size `outer` and the rest; both have its role."""
        like = self if self.role is not None else None
        self.parts = (Axis(outer, like), Axis(self.size // outer, like))
        return self.parts


def leaves(dim: Iterable[Axis]) -> list[Axis]:
    """The axes of a dimension, split as far as is known."""
    found: list[Axis] = []
    pending = [*dim][::-1]
    while pending:
        axis = pending.pop()
        if axis.parts:
            pending += axis.parts[::-1]
        else:
            found.append(axis)
    return found


def size(dim: Dim) -> int:
    """Number of entries along a dimension."""
    return math.prod(axis.size for axis in dim)


def holds(dim: Iterable[Axis], role: Role) -> bool:
    """Whether a dimension has an axis of a role."""
    return any(axis.role == role for axis in leaves(dim))


def resized(dim: Dim, new: int) -> Dim:
    """A dimension with the roles of another one and another size, as after pooling, padding or slicing.

    If the new size is a multiple of the number of samples, that number stays, and the other axes in the dimension
    change their size.
    """
    if new == size(dim):
        return dim
    among = leaves(dim)
    kept = next((axis for axis in among if axis.role == "samples" and axis.size and new % axis.size == 0), None)
    among = [axis for axis in among if axis is not kept]
    first = next((axis for axis in among if axis.role == "channels"), among[0] if among else None)
    if kept is None:
        return (Axis(new, first),)
    other = Axis(new // kept.size, first)
    return (kept, other) if among and leaves(dim)[0] is kept else (other, kept)


def regrouped(dims: Sequence[Dim], sizes: Sequence[int]) -> list[Dim] | None:
    """The dimensions of a reshaped value; None where axes do not divide into the new sizes."""
    rest = leaves(axis for dim in dims for axis in dim)[::-1]
    found = []
    for new in sizes:
        dim = _taken(rest, new)
        if dim is None:
            return None
        found.append(dim)
    if any(axis.size > 1 for axis in rest):
        return None
    ones = tuple(axis for axis in rest if axis.role == "samples")
    return [*found[:-1], (*found[-1], *ones)] if found and ones else found


def _taken(rest: list[Axis], new: int) -> Dim | None:
    """Removes axes from the end of `rest`, where the slowest is, that together form a dimension of a given size."""
    if new == 1:
        return (rest.pop(),) if rest and rest[-1].size == 1 else (Axis(1),)
    taken: list[Axis] = []
    while new > 1:
        if not rest:
            return None
        axis = _next(rest)
        if axis.size and new % axis.size == 0:
            taken.append(axis)
            new //= axis.size
        elif axis.size % new == 0:
            first, second = axis.split(new)
            taken.append(first)
            rest.append(second)
            new = 1
        else:
            return None
    # keep an axis of size 1 only if it may be a batch of one sample
    return tuple(axis for axis in taken if axis.size > 1 or axis.role in ("samples", None)) or tuple(taken)


def _next(rest: list[Axis]) -> Axis:
    """Removes the last of a list of axes, or, if that was split meanwhile, the first of its parts."""
    rest += leaves([rest.pop()])[::-1]
    return rest.pop()


def unify(one: Dim, other: Dim) -> None:
    """Makes two dimensions of one size that correspond entry by entry share their axes.

    Axes of size 1 in larger dimensions are skipped, since their place is arbitrary.
    """
    least = min(size(one), 2)
    mine, its = ([axis for axis in leaves(dim) if axis.size >= least][::-1] for dim in (one, other))
    while size(one) and mine and its:
        a, b = _next(mine), _next(its)
        if a is b:
            continue
        if a.size == b.size:
            a.identify(b)
        elif max(a.size, b.size) % min(a.size, b.size) == 0:
            smaller, larger, pending = (a, b, its) if a.size < b.size else (b, a, mine)
            first, second = larger.split(smaller.size)
            pending.append(second)
            smaller.identify(first)
        else:
            return


class Axes:
    """The dimensions of all values, with the roles that operators give them.

    Attributes:
        values: by name of a node; "name:1" is the second of several results.
        varying: the axes of the free batch sizes, one for each size among the inputs; empty if the batch size is fixed.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[Dim]] = {}
        self.varying: list[Axis] = []

    def of(self, node: object) -> list[Dim] | None:
        """The dimensions of an operator's argument; None for an argument without data, and for several results."""
        return self.values.get(node.name) if isinstance(node, Node) else None

    def fresh(self, new: int) -> Dim:
        """A dimension of unknown role."""
        batch = next((axis for axis in self.varying if new and new % axis.size == 0), None)
        if batch is None:
            return (Axis(new),)
        return (batch,) if new == batch.size else (batch, Axis(new // batch.size))

    def learn(self, dim: Dim, role: Role) -> None:
        """Sets the role of a dimension where it is unknown. For samples that is only its slowest axis."""
        unknown = [axis for axis in leaves(dim) if axis.role is None]
        if role == "samples":
            unknown = [] if self.varying or holds(dim, "samples") else unknown[:1]
        for axis in unknown:
            axis.learn(role)

    def claim(self, batch: Dim, positions: Dim) -> None:
        """Sets the roles for an operator with samples in one dimension and positions in another.

        An assumption that the other of the two is the batch is corrected.
        """
        assumed = [axis for axis in leaves(positions) if axis.role == "samples" and axis.is_assumed]
        free = [axis for axis in leaves(batch) if axis.role is None and axis.size > 1]
        if assumed and free and not holds(batch, "samples"):
            assumed[0].correct("positions")
            free[0].learn("samples")
        self.learn(batch, "samples")
        self.learn(positions, "positions")
