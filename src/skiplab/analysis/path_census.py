"""Count the paths from a network's inputs to its output exactly, by the ops on them.

A path is a choice of one operand at every merge on it. Where a product joins several routes from one value (query, key
and value; a gate and the gated signal), these are one path, counted by the route with the fewest nonlinearities; routes
from different values (a decoder's state and the encoder's output) are different paths. The same holds of additions
inside one function of one value, such as a rotary embedding or GELU's cubic: without a weight layer or a merge between
the operands and their common origin, no paths meet.

Numbers of paths exceed every machine word (2⁶⁰⁰ for a network of 1,202 layers), so a distribution is one big integer
whose k-th group of bits holds the number of paths with k nonlinearities: a nonlinearity shifts it, a merge adds.
"""

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from skiplab.errors import UsageError
from skiplab.graph.ops import WEIGHT_LAYERS, Kind
from skiplab.graph.origins import group_by_origin
from skiplab.graph.program import Program

NONLINEAR: tuple[Kind, ...] = ("activation", "max_pool", "product", "recurrent", "other")
COUNTED: tuple[Kind, ...] = (*NONLINEAR, "norm")


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and the largest number on a path."""

    min: int
    max: int


@dataclass(frozen=True, slots=True)
class Nonlinearities:
    """The smallest and the largest number of nonlinearities on a path, in total and by kind."""

    min: int
    max: int
    by_kind: dict[str, Range]


@dataclass(frozen=True, slots=True)
class PathStep:
    """An op on a path."""

    name: str
    target: str
    kind: Kind
    module: str


@dataclass(frozen=True, slots=True)
class MostLinearPath:
    """A path with the fewest nonlinearities; among equals, one with the fewest weight layers."""

    nonlinearities: int
    weight_layers: int
    steps: tuple[PathStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """The paths of a network.

    Attributes:
        paths: the number of paths.
        nonlinearities: on a path, in total over the kinds in `counted`, and by kind.
        weight_layers: on a path.
        histogram: number of nonlinearities -> number of paths.
        weight_histogram: number of weight layers -> number of paths.
        counted: the kinds counted as nonlinear. Batch norm is affine in eval mode; "norm" (LayerNorm, RMSNorm and
            GroupNorm) is part of the total only on request.
        most_linear: one most linear path.
    """

    paths: int
    nonlinearities: Nonlinearities
    weight_layers: Range
    histogram: dict[int, int]
    weight_histogram: dict[int, int]
    counted: tuple[str, ...]
    most_linear: MostLinearPath

    @property
    def witness(self) -> tuple[PathStep, ...]:
        """The ops on the most linear path, from an input to the output."""
        return self.most_linear.steps


def census(program: Program, *, count: Iterable[Kind] = NONLINEAR, output: int = 0) -> Census:
    """Counts the paths to one output of a program.

    Args:
        program: the captured network.
        count: kinds of op that count as nonlinear; add "norm" to count LayerNorm, RMSNorm and GroupNorm.
        output: index of the output at which the paths end.

    Raises:
        UsageError: there is no such output.
    """
    if not program.outputs:
        # no output depends on the inputs
        nothing = Range(0, 0)
        none = Nonlinearities(0, 0, dict.fromkeys(COUNTED, nothing))
        return Census(
            paths=0,
            nonlinearities=none,
            weight_layers=nothing,
            histogram={},
            weight_histogram={},
            counted=tuple(count),
            most_linear=MostLinearPath(0, 0, ()),
        )
    if not 0 <= output < len(program.outputs):
        raise UsageError(f"output={output}: {program.name} has {len(program.outputs)} outputs that carry data")
    counted = frozenset(count)
    end = program.outputs[output]
    groups = [counted, frozenset(WEIGHT_LAYERS), *(frozenset[Kind]({kind}) for kind in COUNTED)]
    sources = _sources(program, end, groups)
    total, weights, *kinds = (_distribution(sources, end, place) for place in range(len(groups)))
    by_kind = {kind: _range(each) for kind, each in zip(COUNTED, kinds, strict=True)}
    spread = _range(total)
    return Census(
        paths=sum(total.values()),
        nonlinearities=Nonlinearities(spread.min, spread.max, by_kind),
        weight_layers=_range(weights),
        histogram=total,
        weight_histogram=weights,
        counted=tuple(sorted(counted)),
        most_linear=_most_linear(program, end, counted),
    )


def _range(histogram: dict[int, int]) -> Range:
    return Range(min(histogram), max(histogram))


def _operand_groups(program: Program) -> dict[int, list[list[int]]]:
    """For each merge at which paths meet, its operands grouped by origin."""
    groups = {op.index: group_by_origin(program.origins, op.inputs) for op in program.ops if op.kind == "merge"}
    return {index: group for index, group in groups.items() if len(group) > 1}


def _distribution(sources: "Sources", end: int, place: int) -> dict[int, int]:
    """Number of paths by the number of their ops in the group of kinds at `place`."""
    counts = _fold(sources, end, lambda below, _: sum(below), place)
    bits = counts.bit_length() + 1
    packed = _fold(
        sources, end, lambda below, steps: sum(v << (bits * s) for v, s in zip(below, steps, strict=True)), place
    )
    mask = (1 << bits) - 1
    histogram, k = {}, 0
    size = packed.bit_length()
    data = packed.to_bytes(size // 8 + 1, "little")
    # Reading a slice of the bytes keeps this linear; shifting the whole number down would be quadratic.
    while k * bits < size:
        low, high = k * bits // 8, ((k + 1) * bits) // 8 + 1
        number = (int.from_bytes(data[low:high], "little") >> (k * bits % 8)) & mask
        if number:
            histogram[k] = number
        k += 1
    return histogram


Counts = tuple[int, ...]  # ops of each group of kinds on a route; compared in order, so the first group decides
Sources = dict[int, list[tuple[int, Counts]]]


def _sources(program: Program, end: int, groups: list[frozenset[Kind]]) -> Sources:
    """The graph of merges: node -> (merge or input before it, ops on the lightest route between them)."""
    joined = _operand_groups(program)
    steps = {kind: tuple(int(kind in group) for group in groups) for kind in {op.kind for op in program.ops}}
    reach: list[dict[int, Counts]] = []
    sources: Sources = {}
    for op in program.ops[: end + 1]:
        own = steps[op.kind]
        if op.index in joined:
            sources[op.index] = [edge for way in joined[op.index] for edge in _union(reach, way).items()]
        elif not op.inputs:
            sources[op.index] = []
        if op.index in sources:
            reach.append({op.index: own})
            continue
        below = reach[op.inputs[0]] if len(op.inputs) == 1 else _union(reach, op.inputs)
        reach.append({start: _plus(on, own) for start, on in below.items()} if any(own) else below)
    if end not in sources:
        sources[end] = list(reach[end].items())
    return sources


def _plus(a: Counts, b: Counts) -> Counts:
    return tuple(map(operator.add, a, b))


def _union(reach: list[dict[int, Counts]], operands: Iterable[int]) -> dict[int, Counts]:
    merged: dict[int, Counts] = {}
    for operand in operands:
        for start, on in reach[operand].items():
            merged[start] = min(on, merged.get(start, on))
    return merged


def _fold(sources: Sources, end: int, combine: Callable[[list[int], list[int]], int], place: int) -> int:
    """Evaluates the graph of merges in order; a value is dropped after its last reader."""
    last = {start: node for node, edges in sources.items() for start, _ in edges}
    values: dict[int, int] = {}
    for node in sorted(sources):
        edges = sources[node]
        values[node] = combine([values[s] for s, _ in edges], [on[place] for _, on in edges]) if edges else 1
        for start, _ in edges:
            if last[start] == node:
                values.pop(start, None)
    return values[end]


def _most_linear(program: Program, end: int, counted: frozenset[Kind]) -> MostLinearPath:
    best: list[tuple[int, int]] = []
    before: list[int | None] = []
    for op in program.ops[: end + 1]:
        start = min(op.inputs, key=lambda i: best[i], default=None)
        nonlinear, weights = (0, 0) if start is None else best[start]
        best.append((nonlinear + (op.kind in counted), weights + (op.kind in WEIGHT_LAYERS)))
        before.append(start)
    steps: list[PathStep] = []
    index: int | None = end
    while index is not None:
        op = program.ops[index]
        steps.append(PathStep(op.name, op.target, op.kind, op.module))
        index = before[index]
    return MostLinearPath(*best[end], tuple(reversed(steps)))
