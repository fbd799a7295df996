"""Live memory measured on a pass that really runs: what the tensors that it holds lie in."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from skiplab.graph.interpreter import Execution
from skiplab.graph.program import Program


class Watched(Execution):
    """A pass that adds up, after each node, the bytes of all distinct storages that it holds."""

    def __init__(self, program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(program, args, kwargs)
        self.bytes: list[int] = []

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        held = {**self.env, n: value}
        own = {storage(t) for node, v in held.items() if not node.meta.get("lifted") for t in tensors(v)}
        given = {storage(tensor) for tensor in self.program.tensors.values()}
        self.bytes.append(sum(size for _, size in own - given))
        return value


def tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def storage(tensor: Tensor) -> tuple[int, int]:
    return tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes()


def measured(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
    """Bytes alive while each node runs."""
    watched = Watched(program, args, kwargs)
    with torch.no_grad():
        watched.finish()
    return watched.bytes
