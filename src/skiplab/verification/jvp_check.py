"""The kind of a shortcut by Jacobian-vector products, compared with its record."""

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

# In double precision rounding errors are 1e-16 for a view and about 1e-14 for a convolution. A step in single precision
# has errors of 1e-7, and a nonlinearity larger ones. The tolerance lies between.
TOLERANCE = 1e-9


class NotFiniteError(Exception):
    """A value on the shortcut is NaN or infinite at this point."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Properties of one shortcut. Numbers are relative deviations.

    Attributes:
        from_rearrangement: J u compared with u, both sorted: 0 for a rearrangement.
        between_points: J u at one point compared with J u at another.
        from_affine: S(x + u) − S(x) compared with J u: 0 for an affine map.
        weights: nodes on the shortcut that multiply by a learned weight or normalize.
        combine: "add" if the merge passes on the operand unchanged, else "concat".
    """

    from_rearrangement: float
    between_points: float
    from_affine: float
    weights: tuple[str, ...]
    combine: str

    @property
    def kind(self) -> str:
        """The narrowest kind of shortcut with these properties."""
        if not self.from_affine <= TOLERANCE:
            return "nonlinear"
        if not self.between_points <= TOLERANCE:
            return "gated"
        if self.weights:
            return "projection"
        return "identity" if self.from_rearrangement <= TOLERANCE else "resample"


def check_shortcut(
    graph: Graph, skip: Skip, route: Route, points: Sequence[Values], generator: torch.Generator
) -> Verdict:
    """The verdict on one skip, from the values recorded at each point; NotFiniteError where S is not finite."""
    found = facts(graph, route, points, generator)
    kind = found.kind
    claims = {"add": "add", "concat": "concat", "gated": "add"}
    relevant = [found.from_affine]
    if skip.shortcut != "gated":
        relevant.append(found.between_points)
    if skip.shortcut == "identity":
        relevant.append(found.from_rearrangement)
    reason = _disagreement(skip, found)
    if not reason and found.combine != claims[skip.combine]:
        reason = f"its merge is {found.combine}, not {skip.combine}"
    return Verdict(skip.id, skip.shortcut, kind, largest(relevant), not reason, reason)


def _disagreement(skip: Skip, found: Facts) -> str:
    claimed, kind = skip.shortcut, found.kind
    if kind == claimed or (claimed, kind) == ("resample", "identity"):
        return ""
    if kind == "nonlinear":
        frozen = " even with constant gates" if claimed == "gated" else ""
        return f"not affine{frozen}: an activation or a product is on the shortcut"
    if kind == "gated":
        return "depends on the data: gated or nonlinear"
    if claimed == "gated":
        return f"the same at all points: a constant {kind} without a gate"
    if kind == "projection":
        return f"a projection: `{found.weights[0]}` has learned weights"
    if claimed == "projection":
        return f"no weight layer is on the shortcut: {'an' if kind == 'identity' else 'a'} {kind}"
    return "not a rearrangement of the fork's values"


def facts(graph: Graph, route: Route, points: Sequence[Values], generator: torch.Generator) -> Facts:
    """Computes the properties of a shortcut from the values at several points."""
    starts = [[values[node] for node in route.starts] for values in points]
    us = [direction(x, generator) for x in starts[0]]
    shortcut = _Shortcut(route, points, starts, us)
    if all(float(size(ju)) == 0 for ju in shortcut.tangents):
        # a weight may be zero before training: try random weights
        other = _other_weights(graph, route, points[0], generator)
        shortcut = _Shortcut(route, [{**values, **other} for values in points], starts, us)
    first = max(shortcut.tangents, key=lambda ju: float(size(ju)))  # a gate may be closed at some points
    if not float(size(first)):
        raise NoRouteError("the merge does not depend on the fork: the shortcut is multiplied by zero or cut off")
    combine, fills = _combine(route, points[0], starts[0], generator)
    moved = largest(_from_rearrangement(route, points[0], us, ju, fills) for ju in shortcut.tangents)
    if moved <= TOLERANCE:  # with other weights: a scale by 1 is no rearrangement
        other = {**points[0], **_other_weights(graph, route, points[0], generator)}
        moved = relative(tangent(lambda *xs: route(other, xs), starts[0], us) - first, first)
    return Facts(
        from_rearrangement=moved,
        between_points=largest(relative(ju - first, first) for ju in shortcut.tangents),
        from_affine=largest(shortcut.from_affine()),
        weights=tuple(_weights(graph, route, points[0], starts[0], generator)),
        combine=combine,
    )


class _Shortcut:
    """S and J u at each point."""

    def __init__(
        self, route: Route, points: Sequence[Values], starts: Sequence[list[Tensor]], us: Sequence[Tensor]
    ) -> None:
        self.route, self.points, self.starts, self.us = route, points, starts, us
        self.tangents = [
            tangent(lambda *xs, values=values: route(values, xs), x, us)
            for values, x in zip(points, starts, strict=True)
        ]

    def from_affine(self) -> list[float]:
        """The deviation of S from an affine map at each point, along a step at least as large as S."""
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
    """The Jacobian-vector product: in forward mode, or by two backward passes where an operator has no forward mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from torch, when it loads forward derivatives
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


def largest(deviations: Iterable[float]) -> float:
    """The largest value; NaN if one is NaN, unlike Python's `max`."""
    return float(torch.tensor(list(deviations), dtype=torch.float64).max())


def relative(difference: Tensor, of: Tensor) -> float:
    """The largest entry of a difference over the largest of `of`; infinite where only `of` is zero."""
    top, bottom = float(size(difference)), float(size(of))
    return top / bottom if bottom else (0.0 if top == 0 else math.inf)


def _combine(route: Route, values: Values, starts: list[Tensor], generator: torch.Generator) -> tuple[str, int]:
    """How the merge combines its operands, and the number of entries of the shortcut's operand."""
    operand = route.inside(values, starts)[route.operand]
    v = direction(operand, generator)
    arrived = tangent(lambda value: route.onward(values, value), [operand], [v])
    same = arrived.numel() >= v.numel() and arrived.shape[arrived.ndim - v.ndim :] == v.shape
    is_sum = same and relative(arrived - v, v) <= TOLERANCE
    return ("add" if is_sum else "concat"), v.numel()


def _from_rearrangement(route: Route, values: Values, us: Sequence[Tensor], ju: Tensor, fills: int) -> float:
    """The deviation of J u from a rearrangement of u; 1 where the numbers of entries differ."""
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
    """Whether a list holds the parts of one tensor, rather than several results."""
    if not isinstance(parts, (list, tuple)):
        return False
    return len({storage_id(part) for part in parts if isinstance(part, Tensor)}) == 1


def _count(parts: Tensor | Sequence[Tensor]) -> int:
    return parts.numel() if isinstance(parts, Tensor) else sum(part.numel() for part in parts)


def _other_weights(graph: Graph, route: Route, values: Values, generator: torch.Generator) -> dict[Node, Tensor]:
    """Random values for all values on the shortcut that are computed from parameters alone."""
    learned = {node: values[node] for node in route.frozen & graph.learned}
    real = {n: v for n, v in learned.items() if isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex())}
    return {node: value + direction(value, generator) for node, value in real.items()}


def _weights(graph: Graph, route: Route, values: Values, starts: list[Tensor], generator: torch.Generator) -> list[str]:
    """The weight layers and norms on the shortcut. A scale by a parameter is no weight layer.

    An operator is a scale if its Jacobian is diagonal: if J u = J1 · u for a random u. This is tested with random
    parameters, since a weight layer may be zero or the identity before training.
    """
    values = {**values, **_other_weights(graph, route, values, generator)}
    read = () if route.starts == (route.fork,) else route.starts  # an embedding of integers
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
