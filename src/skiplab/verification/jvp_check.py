"""What Jacobian-vector products along a shortcut say of it, against what its record says."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.analysis.skips import Skip
from skiplab.graph.torch_compat import storage_id
from skiplab.verification.proof import Verdict
from skiplab.verification.random_inputs import direction
from skiplab.verification.shortcut_function import Graph, NoRouteError, Route, Values, evaluate

# Rounding in double precision leaves 1e-16 for a view and some 1e-14 for a convolution's thousands of terms;
# a single-precision step on the way would leave 1e-7, and a nonlinearity more than that. This lies between.
TOLERANCE = 1e-9


class NotFiniteError(Exception):
    """A value on the way is NaN or infinite, so that nothing can be said at this point."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was computed of one shortcut, each a relative deviation where it is a number.

    Attributes:
        moved: of J u from u itself, both sorted: 0 for a rearrangement.
        varied: of J u at one point from J u at another.
        bent: of S(x + u) − S(x) from J u: 0 for an affine map.
        weights: nodes on the way that multiply with a learned weight, or normalise.
        joined: "add" where the merge passes the operand on as it is, else "concat".
    """

    moved: float
    varied: float
    bent: float
    weights: tuple[str, ...]
    joined: str

    @property
    def kind(self) -> str:
        """The narrowest kind that they allow."""
        if not self.bent <= TOLERANCE:
            return "nonlinear"
        if not self.varied <= TOLERANCE:
            return "gated"
        if self.weights:
            return "projection"
        return "identity" if self.moved <= TOLERANCE else "resample"


def judge(graph: Graph, skip: Skip, route: Route, points: Sequence[Values], generator: torch.Generator) -> Verdict:
    """The verdict on one skip from the values recorded at each point; NotFiniteError where these do not serve."""
    found = facts(graph, route, points, generator)
    kind = found.kind
    claims = {"add": "add", "concat": "concat", "gated": "add"}
    relevant = [found.bent]
    if skip.shortcut != "gated":
        relevant.append(found.varied)
    if skip.shortcut == "identity":
        relevant.append(found.moved)
    reason = _disagreement(skip, found)
    if not reason and found.joined != claims[skip.combine]:
        reason = f"its merge is no {skip.combine} but {found.joined}"
    return Verdict(skip.id, skip.shortcut, kind, worst(relevant), not reason, reason)


def _disagreement(skip: Skip, found: Facts) -> str:
    claimed, kind = skip.shortcut, found.kind
    if kind == claimed or (claimed, kind) == ("resample", "identity"):
        return ""
    if kind == "nonlinear":
        frozen = " even with its gates held" if claimed == "gated" else ""
        return f"not affine{frozen}: an activation or a product lies on the shortcut"
    if kind == "gated":
        return "changes with the data: gated or nonlinear"
    if claimed == "gated":
        return f"the same at all points, a fixed {kind}: no gate changes it"
    if kind == "projection":
        return f"a projection: `{found.weights[0]}` has learned weights"
    if claimed == "projection":
        return f"no weight layer on the way: {'an' if kind == 'identity' else 'a'} {kind}"
    return "not a rearrangement of the fork's values"


def facts(graph: Graph, route: Route, points: Sequence[Values], generator: torch.Generator) -> Facts:
    """Computes what can be known of a shortcut from its values at several points."""
    starts = [[values[node] for node in route.starts] for values in points]
    us = [direction(x, generator) for x in starts[0]]
    through = _Through(route, points, starts, us)
    if all(float(size(ju)) == 0 for ju in through.tangents):
        # perhaps a weight that is zero before training: others show what it is
        other = _other_weights(graph, route, points[0], generator)
        through = _Through(route, [{**values, **other} for values in points], starts, us)
    first = max(through.tangents, key=lambda ju: float(size(ju)))  # at some points a gate may be shut
    if not float(size(first)):
        raise NoRouteError("nothing of the fork arrives at the merge: the way is multiplied by zero or cut off")
    joined, fills = _joined(route, points[0], starts[0], generator)
    moved = worst(_moved(route, points[0], us, ju, fills) for ju in through.tangents)
    if moved <= TOLERANCE:  # a scale by a weight that is one is none
        other = {**points[0], **_other_weights(graph, route, points[0], generator)}
        moved = relative(tangent(lambda *xs: route(other, xs), starts[0], us) - first, first)
    return Facts(
        moved=moved,
        varied=worst(relative(ju - first, first) for ju in through.tangents),
        bent=worst(through.bends()),
        weights=tuple(_weights(graph, route, points[0], starts[0], generator)),
        joined=joined,
    )


class _Through:
    """S and J u at each point."""

    def __init__(
        self, route: Route, points: Sequence[Values], starts: Sequence[list[Tensor]], us: Sequence[Tensor]
    ) -> None:
        self.route, self.points, self.starts, self.us = route, points, starts, us
        self.tangents = [
            tangent(lambda *xs, values=values: route(values, xs), x, us)
            for values, x in zip(points, starts, strict=True)
        ]

    def bends(self) -> list[float]:
        """How far S is from affine at each point, along a step that is no smaller than S itself."""
        bends = []
        for values, x, ju in zip(self.points, self.starts, self.tangents, strict=True):
            at = self.route(values, x)
            step = max(1.0, float(size(at) / size(ju))) if float(size(ju)) else 1.0
            ahead = self.route(values, [a + step * u for a, u in zip(x, self.us, strict=True)])
            bends.append(relative(ahead - at - step * ju, step * ju))
        if not all(map(math.isfinite, bends)):
            raise NotFiniteError("the merge's value is not finite")
        return bends


def tangent(function: Callable[..., Tensor], xs: Sequence[Tensor], us: Sequence[Tensor]) -> Tensor:
    """The Jacobian-vector product, forward where all operators can, else by differentiating twice backwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, when it loads its forward derivatives
        try:
            return torch.func.jvp(function, tuple(xs), tuple(us))[1]
        except (RuntimeError, NotImplementedError):
            with torch.enable_grad():
                product = torch.autograd.functional.jvp(function, tuple(xs), tuple(us), strict=False)[1]
    assert isinstance(product, Tensor)
    return product


def size(value: Tensor) -> Tensor:
    """The largest absolute entry."""
    return value.abs().max() if value.numel() else value.new_zeros(()).real


def worst(deviations: Iterable[float]) -> float:
    """The largest; NaN as soon as one is, which Python's `max` may pass over."""
    return float(torch.tensor(list(deviations), dtype=torch.float64).max())


def relative(difference: Tensor, of: Tensor) -> float:
    """The largest entry of a difference over the largest of `of`; infinite where only `of` is zero."""
    top, bottom = float(size(difference)), float(size(of))
    return top / bottom if bottom else (0.0 if top == 0 else math.inf)


def _joined(route: Route, values: Values, starts: list[Tensor], generator: torch.Generator) -> tuple[str, int]:
    """How the merge takes its operand, and how many entries the operand has."""
    operand = route.inside(values, starts)[route.operand]
    v = direction(operand, generator)
    arrived = tangent(lambda value: route.onward(values, value), [operand], [v])
    same = arrived.numel() >= v.numel() and arrived.shape[arrived.ndim - v.ndim :] == v.shape
    is_sum = same and relative(arrived - v, v) <= TOLERANCE
    return ("add" if is_sum else "concat"), v.numel()


def _moved(route: Route, values: Values, us: Sequence[Tensor], ju: Tensor, fills: int) -> float:
    """How far J u is from a rearrangement of u; 1 where there are more entries or fewer."""
    sent = torch.cat([_entries(u) for u in us]).sort().values
    got = _entries(ju)
    got = got[got != 0].sort().values
    parts = values[route.fork]
    whole = fills if route.starts != (route.fork,) and not _is_split(parts) else _count(parts)
    if got.numel() != sent.numel() or fills != whole:
        return 1.0
    return relative(got - sent, sent)


def _entries(value: Tensor) -> Tensor:
    return (torch.view_as_real(value) if value.is_complex() else value).flatten()


def _is_split(parts: object) -> bool:
    """Whether a list holds the parts of one tensor, and not several results."""
    if not isinstance(parts, (list, tuple)):
        return False
    return len({storage_id(part) for part in parts if isinstance(part, Tensor)}) == 1


def _count(parts: Tensor | Sequence[Tensor]) -> int:
    return parts.numel() if isinstance(parts, Tensor) else sum(part.numel() for part in parts)


def _other_weights(graph: Graph, route: Route, values: Values, generator: torch.Generator) -> dict[Node, Tensor]:
    """Something random for everything on the way that is computed from parameters alone."""
    learned = {node: values[node] for node in route.frozen & graph.learned}
    real = {n: v for n, v in learned.items() if isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex())}
    return {node: value + direction(value, generator) for node, value in real.items()}


def _weights(graph: Graph, route: Route, values: Values, starts: list[Tensor], generator: torch.Generator) -> list[str]:
    """Nodes on the way that are weight layers: that mix values with a parameter, where a scale does not; norms.

    An operator scales entry by entry when its Jacobian is diagonal: when J u = J1 · u for a random u. It is asked
    with other parameters, since a weight layer may be zero, or the identity, before training.
    """
    values = {**values, **_other_weights(graph, route, values, generator)}
    read = () if route.starts == (route.fork,) else route.starts  # a table in which integers were looked up
    found = [node.name for node in read if any(n in graph.learned for n in node.all_input_nodes)]
    own = route.inside(values, starts)
    for step in route.steps:
        if "norm" in str(step.target):
            found.append(step.name)
        elif any(n in graph.learned for n in step.all_input_nodes):
            varied = [n for n in step.all_input_nodes if n in own]
            if len(varied) != 1 or not _is_diagonal(step, varied[0], {**values, **own}, generator):
                found.append(step.name)
    return found


def _is_diagonal(step: Node, varied: Node, values: Values, generator: torch.Generator) -> bool:
    def function(value: Tensor) -> Tensor:
        return evaluate(step, lambda node: value if node is varied else values[node])

    x = values[varied]
    u = direction(x, generator)
    of_ones = tangent(function, [x], [torch.ones_like(x)])
    return of_ones.shape == x.shape and relative(tangent(function, [x], [u]) - of_ones * u, u) <= TOLERANCE
