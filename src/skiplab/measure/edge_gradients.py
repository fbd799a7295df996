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
    """A pass with a gate on each of some edges: a factor of 1 on the value, by which a loss can be differentiated.

    That derivative is the inner product of gradient and value. It is taken when a backward pass comes by, so that no
    gradient is kept; those of parameters are not computed at all. To be used where gradients are enabled.

    Attributes:
        output: the network's.
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
        """The derivatives of a scalar that was made of `output`: for each edge its samples' parts, (samples,).

        With `again`, a further scalar can be differentiated afterwards.
        """
        none = scalar.new_zeros(self._given.size, dtype=torch.double)  # of what the scalar does not depend on
        self._found = dict.fromkeys(self._edges, none)
        torch.autograd.grad(scalar, self._leaves, retain_graph=again, allow_unused=True)
        return self._found

    def _gate(self, edge: Edge, value: Tensor) -> Tensor:
        alias = alias_of(value)
        if alias.is_leaf:  # no gate lies before it
            self._leaves.append(alias)

        def meet(gradient: Tensor) -> None:
            self._found[edge] = self._found[edge] + self._by_sample(edge[1], gradient * value.detach())

        alias.register_hook(meet)
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
    """The value for one reader, whose gradient alone it sees; a leaf where nothing before it learns."""
    return value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
