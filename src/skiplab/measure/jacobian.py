"""The Jacobian of one value of a pass with respect to an earlier one, as products with vectors."""

import warnings
from collections.abc import Collection
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd import forward_ad

from skiplab.graph.interpreter import Edge, Execution, Patch
from skiplab.measure.kernels import unfused_kernels


class Jacobian:
    """J = ∂y/∂x for one sample, of shape (entries of y, entries of x); other inputs of y are constant.

    Jᵀu is a backward pass over the ops between x and y. Jv is a second one, over Jᵀu as a function of u; since it is
    linear, any u will do. Where an operator's derivative is not differentiable (hard sigmoid), Jv is a forward pass
    with tangents instead.

    Args:
        execution: a pass that has run up to the node `source`.
        source: name of the node whose value is x.
        target: name of a later node, whose value is y.
        row: the sample's index in the batch; the others keep their values.
        zeroed: edges that pass zeros instead of their value.
    """

    def __init__(self, execution: Execution, source: str, target: str, row: int, zeroed: Collection[Edge] = ()) -> None:
        self.execution, self.source, self.target, self.row, self.zeroed = execution, source, target, row, zeroed
        self.whole = execution.recorded[source].detach()
        self.x = self.whole[row].clone().requires_grad_()
        with torch.enable_grad(), unfused_kernels(execution.program):
            self.y = self._value(self.x)
        self.shape = (self.y.numel(), self.x.numel())

    def _value(self, x: Tensor) -> Tensor:
        given = torch.cat((self.whole[: self.row], x[None], self.whole[self.row + 1 :]))
        readers = self.execution.program.nodes[self.source].users
        patches: dict[Edge, Patch] = {(node.name, self.source): lambda _: given for node in readers}
        patches |= dict.fromkeys(self.zeroed, torch.zeros_like)
        return self.execution.fork(patches).value(self.target)[self.row]

    def times(self, v: Tensor) -> Tensor:
        """Jv, flat, in double precision on the CPU, for a flat v of any precision."""
        v = v.to(self.x).view_as(self.x)
        if self._backward is None:
            return _flat(self._tangent(v))
        return _flat(_gradient(*self._backward, v))

    @cached_property
    def _backward(self) -> tuple[Tensor, Tensor] | None:
        """Jᵀu and u, with the graph from u to Jᵀu; None where an operator's derivative is not differentiable."""
        u = torch.zeros_like(self.y, requires_grad=True)
        try:
            product = _gradient(self.y, self.x, u, create_graph=True)
            _gradient(product, u, torch.zeros_like(self.x))
        except RuntimeError as error:
            if "is not implemented" not in str(error):
                raise
            return None
        return product, u

    def _tangent(self, v: Tensor) -> Tensor:
        with warnings.catch_warnings(), torch.no_grad(), unfused_kernels(self.execution.program):
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own rules for tangents are TorchScript
            with forward_ad.dual_level():
                y, tangent = forward_ad.unpack_dual(self._value(forward_ad.make_dual(self.x.detach(), v)))
        return torch.zeros_like(y) if tangent is None else tangent

    def transposed_times(self, u: Tensor) -> Tensor:
        """Jᵀu, likewise."""
        return _flat(_gradient(self.y, self.x, u.to(self.y).view_as(self.y)))

    def matrix(self) -> Tensor:
        """J itself, by as many products as its smaller dimension."""
        m, n = self.shape
        if m <= n:
            return torch.stack([self.transposed_times(unit) for unit in torch.eye(m, device=self.x.device)])
        return torch.stack([self.times(unit) for unit in torch.eye(n, device=self.x.device)], dim=1)


def _gradient(outputs: Tensor, inputs: Tensor, along: Tensor, create_graph: bool = False) -> Tensor:
    """Zeros where the outputs do not depend on the inputs."""
    if not outputs.requires_grad:
        return torch.zeros_like(inputs)
    (gradient,) = torch.autograd.grad(
        outputs, inputs, along, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )
    return gradient


def _flat(value: Tensor) -> Tensor:
    return value.detach().flatten().double().cpu()
