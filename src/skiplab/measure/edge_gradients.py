"""Each sample's inner product of a value and its gradient, at many edges of one pass."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from skiplab.data.bound_batches import BoundBatch
from skiplab.errors import DataError
from skiplab.graph.interpreter import Edge, Execution, Patch, detached_tensors
from skiplab.graph.program import Program
from skiplab.measure.merge_operands import by_sample


class Gates:
    """A pass with a gate on some edges: a factor of 1 on the value, which a loss can be differentiated by.

    That derivative is the inner product of gradient and value. It is computed during the backward pass, so that no
    gradient is stored; gradients of parameters are not computed. Requires grad mode.

    Attributes:
        output: the network's output.
    """

    def __init__(self, program: Program, given: BoundBatch, edges: Iterable[Edge]) -> None:
        self._program, self._given = program, given
        self._leaves: list[Tensor] = []
        self._found: dict[Edge, Tensor] = {}
        self._edges = tuple(edges)
        patches: dict[Edge, Patch] = {edge: partial(self._gate, edge) for edge in self._edges}
        self.output = Execution(
            program, given.args, given.kwargs, patches=patches, tensors=detached_tensors(program)
        ).finish()

    def backward(self, scalar: Tensor, again: bool = False) -> dict[Edge, Tensor]:
        """The derivatives of a scalar function of `output` by each gate, one for each sample: shape (samples,).

        With `again`, another scalar can be differentiated afterwards.
        """
        none = scalar.new_zeros(self._given.size, dtype=torch.double)  # for edges that the scalar does not depend on
        self._found = dict.fromkeys(self._edges, none)
        torch.autograd.grad(scalar, self._leaves, retain_graph=again, allow_unused=True)
        return self._found

    def _gate(self, edge: Edge, value: Tensor) -> Tensor:
        alias = alias_of(value)
        if alias.is_leaf:  # no gate before it
            self._leaves.append(alias)

        def accumulate(gradient: Tensor) -> None:
            self._found[edge] = self._found[edge] + self._by_sample(edge[1], gradient * value.detach())

        alias.register_hook(accumulate)
        return alias

    def _by_sample(self, name: str, product: Tensor) -> Tensor:
        sums = by_sample(self._program, self._program.by_name[name], product, self._given.size).sum(1).double()
        if len(sums) != self._given.size:
            raise DataError(
                f"the branch's value `{name}` of shape {tuple(product.shape)} has no dimension of "
                f"{self._given.size} samples"
            )
        return sums


def alias_of(value: Tensor) -> Tensor:
    """A view of the value that gets one reader's gradient; a leaf if the value requires none."""
    return value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
