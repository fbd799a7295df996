"""Find skip connections in a program, by the definition of DESIGN §2: fork → (shortcut ∥ branch) → merge.

For every merge and each of its operands, walk back over operators that leave the signal what it is. The first
value on that walk on which another operand depends through strictly more weight layers is the fork. The search
for that dependence goes back from the merge no further than the candidates, so the whole is linear in the size
of the graph for any bounded depth of nesting.
"""

import fnmatch
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal, overload

import pandas as pd

from .errors import SelectionError, StaleSkip
from .ops import LINEAR, TRANSPARENT, WEIGHT_LAYERS, is_concat
from .program import Op, Program

Combine = Literal["add", "concat", "gated"]
Shortcut = Literal["identity", "resample", "projection", "gated"]


@dataclass(frozen=True, slots=True)
class Skip:
    """One skip connection. It names nodes of its program, and so can be stored and read back.

    Attributes:
        id: unique in its program: the module's path, numbered where a module holds several.
        path: path of the module in whose `forward` the merge stands; "" for the root.
        combine: how the merge joins.
        shortcut: kind of the shortcut.
        fork: node whose value both ways start from.
        merge: node where they meet again.
        operand: the merge's operand at the end of the shortcut.
        branch: the merge's operands that depend on the fork through more weight layers.
        weight_layers: weight layers on the longest way through the branch.
        shortcut_weight_layers: weight layers on the shortcut, 0 or 1.
        activation_after: activation function applied to the merge before anything else reads it, if any.
        source: "file:line" of the merge.
        parent: id of the innermost skip on whose branch this one lies.
        program: fingerprint of the program in which it was found.
    """

    id: str
    path: str
    combine: Combine
    shortcut: Shortcut
    fork: str
    merge: str
    operand: str
    branch: tuple[str, ...]
    weight_layers: int
    shortcut_weight_layers: int
    activation_after: str | None
    source: str | None
    parent: str | None
    program: str


@dataclass(frozen=True, slots=True)
class Apart:
    """A merge that meets the definition's letter but is listed apart, with the reason."""

    merge: str
    path: str
    reason: Literal["foldable"]
    source: str | None


class Skips(Sequence[Skip]):
    """The skip connections of one program, in order of their merges."""

    def __init__(self, skips: Iterable[Skip], apart: Iterable[Apart] = ()) -> None:
        self._skips = tuple(skips)
        self.apart = tuple(apart)

    @overload
    def __getitem__(self, index: int) -> Skip: ...
    @overload
    def __getitem__(self, index: slice) -> "Skips": ...
    def __getitem__(self, index: int | slice) -> "Skip | Skips":
        return Skips(self._skips[index]) if isinstance(index, slice) else self._skips[index]

    def __len__(self) -> int:
        return len(self._skips)

    def __repr__(self) -> str:
        kinds = Counter(f"{s.combine}/{s.shortcut}" for s in self)
        return f"<{len(self)} skips: {', '.join(f'{n} {kind}' for kind, n in kinds.items()) or 'none'}>"

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False)

    def at(self, pattern: str) -> "Skips":
        """Those whose path or id matches a shell pattern: `layer2.*`."""
        return Skips(s for s in self if fnmatch.fnmatch(s.path, pattern) or fnmatch.fnmatch(s.id, pattern))

    def expect(self, count: int) -> "Skips":
        """Itself, when it holds `count` skips; SelectionError otherwise."""
        if len(self) != count:
            some = ", ".join(s.id for s in self[:5]) + (", …" if len(self) > 5 else "")
            raise SelectionError(f"expected {count} skips, found {len(self)}" + (f": {some}" if some else ""))
        return self

    def table(self) -> pd.DataFrame:
        """One row a skip, columns as the attributes of `Skip`."""
        columns = [field.name for field in fields(Skip)]
        return pd.DataFrame([asdict(s) for s in self], columns=columns)

    def check(self, program: Program) -> "Skips":
        """Itself, when found in `program`; StaleSkip otherwise."""
        for skip in self:
            if skip.program != program.fingerprint:
                raise StaleSkip(f"skip `{skip.id}` was found in another program: call `find` on this one again")
        return self


def find(program: Program) -> Skips:
    """Every `add` and `concat` skip connection of a program, nested ones included."""
    found: list[tuple[Skip, frozenset[int]]] = []
    apart: list[Apart] = []
    for merge in _merges(program):
        for skip, region in _at_merge(program, merge):
            if _is_foldable(program, merge, region):
                apart.append(Apart(merge.op.name, merge.op.module, "foldable", merge.op.source))
            else:
                found.append((skip, region))
    return Skips(_with_parents(program, _with_ids(found)), apart)


@dataclass(frozen=True, slots=True)
class Merge:
    """An n-ary merge: a chain of additions counts as one.

    Attributes:
        op: the last addition of the chain, whose value is the sum.
        operands: indices of the ops that are joined.
        readers: for each operand, the op of the chain that reads it.
    """

    op: Op
    operands: tuple[int, ...]
    readers: tuple[int, ...]


def merge_at(program: Program, name: str) -> Merge:
    """The merge whose value is the node `name`, with all its operands."""
    return _flattened(program, program.by_name[name])


def _merges(program: Program) -> Iterator[Merge]:
    inner: set[int] = set()
    for op in reversed(program.ops):
        if op.kind == "merge" and op.index not in inner:
            merge = _flattened(program, op)
            inner.update(merge.readers)
            if not _is_attention_score(program, merge):
                yield merge


def _flattened(program: Program, op: Op) -> Merge:
    """Unfolds additions that nothing but the next addition reads."""
    operands: list[int] = []
    readers: list[int] = []
    stack = [(operand, op.index) for operand in reversed(op.inputs)]
    while stack:
        operand, reader = stack.pop()
        below = program.ops[operand]
        chained = below.kind == "merge" and not is_concat(op.target) and not is_concat(below.target)
        if chained and program.users[operand] == (reader,) and below.shape == op.shape:
            stack += [(each, operand) for each in reversed(below.inputs)]
        else:
            operands.append(operand)
            readers.append(reader)
    return Merge(op, tuple(operands), tuple(readers))


def _is_attention_score(program: Program, merge: Merge) -> bool:
    """A product of queries and keys with a mask or a position bias added, on its way to a softmax."""
    users = program.users[merge.op.index]
    while len(users) == 1 and program.ops[users[0]].kind == "view":
        users = program.users[users[0]]
    to_softmax = bool(users) and all("softmax" in program.ops[user].target for user in users)
    return to_softmax and any(_is_product(program, operand) for operand in merge.operands)


def _is_product(program: Program, index: int) -> bool:
    op = program.ops[index]
    while op.kind in ("view", "resample") and len(op.inputs) == 1:
        op = program.ops[op.inputs[0]]
    return op.kind == "product"


def _at_merge(program: Program, merge: Merge) -> Iterator[tuple[Skip, frozenset[int]]]:
    """The skips that end at one merge, each with the ops on its branch."""
    walks = [_walk(program, operand) if _same_extent(program, merge, operand) else () for operand in merge.operands]
    candidates = {value for walk in walks for value, _, _ in walk}
    if not candidates:
        return
    heaviest = _heaviest(program, merge, candidates)
    for position, walk in enumerate(walks):
        if merge.operands[position] in merge.operands[:position]:
            continue  # the same value added twice is one shortcut
        for fork, weights, shortcut in walk:
            if heaviest.get(fork, _NOTHING).beside(position) > weights:
                yield _skip(program, merge, position, (fork, weights, shortcut))
                break


def _same_extent(program: Program, merge: Merge, operand: int) -> bool:
    """Whether an added operand meets each entry of the sum once: a broadcast one carries nothing past."""
    if is_concat(merge.op.target):
        return True
    return program.ops[operand].shape == merge.op.shape


def _walk(program: Program, operand: int) -> tuple[tuple[int, int, Shortcut], ...]:
    """Values from a merge's operand back along its light way: (value, weight layers since, kind of shortcut).

    Only a value that several ops read (or one op twice) can be a fork; from any other, all ways go on through
    its only reader.
    """
    steps: list[tuple[int, int, Shortcut]] = []
    weights, kind = 0, "identity"
    op = program.ops[operand]
    while True:
        if len(program.users[op.index]) > 1:
            steps.append((op.index, weights, kind))  # type: ignore[arg-type]
        if len(op.inputs) != 1 or not (op.kind in TRANSPARENT or (op.kind == "weight" and not weights)):
            return tuple(steps)
        if op.kind == "weight":
            weights = 1
        if op.kind in ("weight", "batch_norm"):
            kind = "projection"
        elif op.kind == "resample" and kind == "identity":
            kind = "resample"
        op = program.ops[op.inputs[0]]


class _Reach:
    """Most weight layers on a way from a value to each operand of a merge, as the two best operands."""

    __slots__ = ("best", "position", "second")

    def __init__(self) -> None:
        self.best, self.position, self.second = -1, -1, -1

    def beside(self, position: int) -> int:
        """The most over all operands but that one; -1 when no other depends on the value."""
        return self.second if position == self.position else self.best

    def improve(self, weights: int, position: int) -> None:
        if position == self.position:
            self.best = max(self.best, weights)
        elif weights > self.best:
            self.best, self.position, self.second = weights, position, self.best
        else:
            self.second = max(self.second, weights)


_NOTHING = _Reach()


def _heaviest(program: Program, merge: Merge, candidates: set[int]) -> dict[int, _Reach]:
    """For each candidate, the most weight layers on its ways to the merge's operands: one pass backwards."""
    reach: dict[int, _Reach] = defaultdict(_Reach)
    for position, operand in enumerate(merge.operands):
        reach[operand].improve(0, position)
    lowest = min(candidates)
    for index in range(max(merge.operands), lowest, -1):
        here = reach.get(index)
        if here is None:
            continue
        op = program.ops[index]
        step = op.kind in WEIGHT_LAYERS
        for operand in op.inputs:
            if operand >= lowest:
                there = reach[operand]
                there.improve(here.best + step, here.position)
                if here.second >= 0:
                    there.improve(here.second + step, -2)
    return reach


def _skip(
    program: Program, merge: Merge, position: int, step: tuple[int, int, Shortcut]
) -> tuple[Skip, frozenset[int]]:
    fork, weights, shortcut = step
    others = [o for i, o in enumerate(merge.operands) if i != position]
    region, longest = _between(program, fork, others)
    branch = tuple(dict.fromkeys(program.ops[o].name for o in others if longest.get(o, -1) > weights))
    skip = Skip(
        id="",
        path=merge.op.module,
        combine="concat" if is_concat(merge.op.target) else "add",
        shortcut=shortcut,
        fork=program.ops[fork].name,
        merge=merge.op.name,
        operand=program.ops[merge.operands[position]].name,
        branch=branch,
        weight_layers=max(longest[o] for o in others if o in longest),
        shortcut_weight_layers=weights,
        activation_after=_activation_after(program, merge.op),
        source=merge.op.source,
        parent=None,
        program=program.fingerprint,
    )
    return skip, region


def _between(program: Program, fork: int, ends: list[int]) -> tuple[frozenset[int], dict[int, int]]:
    """Ops on ways from the fork to the ends (without the fork), and each one's most weight layers since."""
    longest = {fork: 0}
    for index in range(fork + 1, max(ends) + 1):
        op = program.ops[index]
        below = [longest[i] for i in op.inputs if i in longest]
        if below:
            longest[index] = max(below) + (op.kind in WEIGHT_LAYERS)
    region = {end for end in ends if end in longest and end != fork}
    for index in range(max(ends), fork, -1):
        if index in region:
            region.update(i for i in program.ops[index].inputs if i in longest and i != fork)
    return frozenset(region), longest


def _is_foldable(program: Program, merge: Merge, region: frozenset[int]) -> bool:
    """A sum in which nothing nonlinear lies beside the shortcut is one linear layer in disguise (RepVGG)."""
    return not is_concat(merge.op.target) and all(program.ops[i].kind in LINEAR for i in region)


def _activation_after(program: Program, op: Op) -> str | None:
    users = program.users[op.index]
    while len(users) == 1:
        user = program.ops[users[0]]
        if user.kind == "activation":
            return user.target
        if user.kind != "view":
            return None
        users = program.users[user.index]
    return None


def _with_ids(found: list[tuple[Skip, frozenset[int]]]) -> list[tuple[Skip, frozenset[int]]]:
    """Ids in order of the merges: the path, with a number where the path alone would not be unique."""
    found = found[::-1]  # merges were visited from the last to the first
    total = Counter(skip.path for skip, _ in found)
    seen: Counter[str] = Counter()
    named = []
    for skip, region in found:
        seen[skip.path] += 1
        name = skip.path or "forward"
        number = f"#{seen[skip.path]}" if total[skip.path] > 1 else ""
        named.append((replace(skip, id=name + number), region))
    return named


def _with_parents(program: Program, found: list[tuple[Skip, frozenset[int]]]) -> Iterator[Skip]:
    around: dict[int, list[int]] = defaultdict(list)  # op -> the skips on whose branch it lies
    for number, (_, region) in enumerate(found):
        for index in region:
            around[index].append(number)
    for skip, _ in found:
        merge, fork = program.by_name[skip.merge].index, program.by_name[skip.fork].index
        outer = [
            (len(found[n][1]), found[n][0].id)
            for n in around.get(merge, ())
            if fork in found[n][1] or found[n][0].fork == skip.fork
        ]
        yield replace(skip, parent=min(outer)[1] if outer else None)
