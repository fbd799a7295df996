"""Count the paths from a network's inputs to its output exactly, by what lies on them.

A path is a choice of operand at every merge that it passes. Where a product joins several ways from one value
(query, key and value; a gate and what it gates), these are one path, and the way with the fewest nonlinearities
stands for it; ways from different values (a decoder's state and the encoder's output) are different paths.
The same holds of additions inside one function of one value, such as a rotary embedding or GELU's cubic: if
between the operands and their common origin there is no weight layer and no merge, no ways meet there.

Numbers of paths outgrow every machine word (2⁶⁰⁰ for a network of 1,202 layers), so a distribution is one big
integer whose k-th group of bits holds the number of paths with k nonlinearities: to step over a nonlinearity
is a shift, to merge is an addition.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from skiplab.errors import UsageError
from skiplab.ops import WEIGHT_LAYERS, Kind
from skiplab.program import Op, Program

NONLINEAR: tuple[Kind, ...] = ("activation", "max_pool", "product", "recurrent", "other")
COUNTED: tuple[Kind, ...] = (*NONLINEAR, "norm")

Weight = Callable[[Op], int]


@dataclass(frozen=True, slots=True)
class Range:
    """Fewest and most of something on a path."""

    min: int
    max: int


@dataclass(frozen=True, slots=True)
class Nonlinearities:
    """Fewest and most nonlinearities on a path, together and for each kind by itself."""

    min: int
    max: int
    by_kind: dict[str, Range]


@dataclass(frozen=True, slots=True)
class Step:
    """An op on the witness path."""

    name: str
    target: str
    kind: Kind
    module: str


@dataclass(frozen=True, slots=True)
class Witness:
    """The path with the fewest nonlinearities (among equals, with the fewest weight layers)."""

    nonlinearities: int
    weight_layers: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Census:
    """The paths of a network.

    Attributes:
        paths: how many there are.
        nonlinearities: per path; of the kinds in `counted`, and for each kind by itself.
        weight_layers: per path.
        histogram: number of nonlinearities -> number of paths.
        weight_histogram: number of weight layers -> number of paths.
        counted: the kinds counted as nonlinear. Batch norm is affine in eval mode; "norm" (LayerNorm and its
            kin) is counted by kind but not in the total, unless asked for.
        fewest: the witness path.
    """

    paths: int
    nonlinearities: Nonlinearities
    weight_layers: Range
    histogram: dict[int, int]
    weight_histogram: dict[int, int]
    counted: tuple[str, ...]
    fewest: Witness

    @property
    def witness(self) -> tuple[Step, ...]:
        """The ops on the lightest path, from an input to the output."""
        return self.fewest.steps


def census(program: Program, *, count: Iterable[Kind] = NONLINEAR, output: int = 0) -> Census:
    """Counts the paths to one output of a program.

    Args:
        program: the captured network.
        count: kinds of op that count as nonlinear; add "norm" to count LayerNorm, RMSNorm and GroupNorm.
        output: which of the network's outputs the paths lead to.
    """
    if not program.outputs:
        # no output depends on the inputs
        nothing = Range(0, 0)
        none = Nonlinearities(0, 0, dict.fromkeys(COUNTED, nothing))
        return Census(0, none, nothing, {}, {}, tuple(count), Witness(0, 0, ()))
    if not 0 <= output < len(program.outputs):
        raise UsageError(f"output={output}: {program.name} has {len(program.outputs)} outputs that carry data")
    counted = frozenset(count)
    end = program.outputs[output]
    routes = _routes(program)

    def histogram(kinds: frozenset[Kind]) -> dict[int, int]:
        return _distribution(program, routes, end, lambda op: int(op.kind in kinds))

    total, weights = histogram(counted), histogram(frozenset(WEIGHT_LAYERS))
    by_kind = {kind: _range(histogram(frozenset({kind}))) for kind in COUNTED}
    spread = _range(total)
    return Census(
        paths=sum(total.values()),
        nonlinearities=Nonlinearities(spread.min, spread.max, by_kind),
        weight_layers=_range(weights),
        histogram=total,
        weight_histogram=weights,
        counted=tuple(sorted(counted)),
        fewest=_witness(program, end, counted),
    )


def _range(histogram: dict[int, int]) -> Range:
    return Range(min(histogram), max(histogram))


@dataclass(frozen=True, slots=True)
class _Route:
    """How a merge is reached: the ops that start its ways, one entry a way."""

    ways: tuple[tuple[int, ...], ...]


def _routes(program: Program) -> dict[int, _Route]:
    """For each merge at which ways meet, its operands grouped into ways."""
    anchors = _anchors(program)
    routes = {}
    for op in program.ops:
        if op.kind != "merge":
            continue
        groups: dict[frozenset[int], list[int]] = {}
        for operand in op.inputs:
            groups.setdefault(anchors[operand], []).append(operand)
        if len(groups) > 1:
            routes[op.index] = _Route(tuple(tuple(group) for group in groups.values()))
    return routes


def _anchors(program: Program) -> list[frozenset[int]]:
    """For each op, the weight layers, merges of ways and inputs from which its value is computed directly."""
    anchors: list[frozenset[int]] = []
    for op in program.ops:
        below = {anchors[i] for i in op.inputs}
        starts = op.kind in (*WEIGHT_LAYERS, "input") or (op.kind == "merge" and len(below) > 1)
        if starts or not below:
            anchors.append(frozenset({op.index}))
        elif len(below) == 1:
            anchors.append(below.pop())  # shared, so that a long chain costs nothing
        else:
            anchors.append(frozenset().union(*below))
    return anchors


def _distribution(program: Program, routes: dict[int, _Route], end: int, weight: Weight) -> dict[int, int]:
    """Number of paths by their total weight."""
    sources = _sources(program, routes, end, weight)
    counts = _fold(sources, end, lambda below, _: sum(below))
    bits = counts.bit_length() + 1
    packed = _fold(sources, end, lambda below, steps: sum(v << (bits * s) for v, s in zip(below, steps, strict=True)))
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


Sources = dict[int, list[list[tuple[int, int]]]]


def _sources(program: Program, routes: dict[int, _Route], end: int, weight: Weight) -> Sources:
    """The graph of merges alone: node -> ways -> (merge or input before it, least weight in between)."""
    reach: list[dict[int, int]] = []
    sources: Sources = {}
    for op in program.ops[: end + 1]:
        own = weight(op)
        route = routes.get(op.index)
        if route is not None:
            sources[op.index] = [list(_union(reach, way).items()) for way in route.ways]
            reach.append({op.index: own})
        elif not op.inputs:
            sources[op.index] = []
            reach.append({op.index: own})
        else:
            below = reach[op.inputs[0]] if len(op.inputs) == 1 else _union(reach, op.inputs)
            reach.append({start: w + own for start, w in below.items()} if own else below)
    if end not in routes:
        sources[end] = [list(reach[end].items())] if program.ops[end].inputs else []
    return sources


def _union(reach: list[dict[int, int]], operands: Iterable[int]) -> dict[int, int]:
    merged: dict[int, int] = {}
    for operand in operands:
        for start, w in reach[operand].items():
            merged[start] = min(w, merged.get(start, w))
    return merged


def _fold(sources: Sources, end: int, combine: Callable[[list[int], list[int]], int]) -> int:
    """Evaluates the graph of merges in order; a value is dropped after its last reader."""
    last = {start: node for node, ways in sources.items() for way in ways for start, _ in way}
    values: dict[int, int] = {}
    for node in sorted(sources):
        edges = [edge for way in sources[node] for edge in way]
        if edges:
            values[node] = combine([values[s] for s, _ in edges], [w for _, w in edges])
            for start, _ in edges:
                if last[start] == node:
                    values.pop(start, None)
        else:
            values[node] = 1
    return values[end]


def _witness(program: Program, end: int, counted: frozenset[Kind]) -> Witness:
    best: list[tuple[int, int]] = []
    before: list[int | None] = []
    for op in program.ops[: end + 1]:
        start = min(op.inputs, key=lambda i: best[i], default=None)
        nonlinear, weights = (0, 0) if start is None else best[start]
        best.append((nonlinear + (op.kind in counted), weights + (op.kind in WEIGHT_LAYERS)))
        before.append(start)
    steps: list[Step] = []
    index: int | None = end
    while index is not None:
        op = program.ops[index]
        steps.append(Step(op.name, op.target, op.kind, op.module))
        index = before[index]
    return Witness(*best[end], tuple(reversed(steps)))
