"""What holds of every edit, whatever it changes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import skiplab
from skiplab.graph.program import Program


def values(output: Any) -> list[Tensor]:
    return [value for value in pytree.tree_leaves(output) if isinstance(value, Tensor)]


def with_statistics(model: nn.Module, dtype: torch.dtype = torch.double) -> nn.Module:
    """A model in evaluation mode whose batch norms, scales and biases are no identities."""
    torch.manual_seed(0)
    model = model.to(dtype).eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim < 2:
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else torch.randn_like(tensor))
    return model


def captured_with_statistics(model: nn.Module, *args: Any, dtype: torch.dtype = torch.double) -> tuple[nn.Module, Any]:
    """Such a model, and its capture."""
    model = with_statistics(model, dtype)
    return model, skiplab.capture(model, tuple(arg.to(dtype) for arg in args))


def deviation(one: Any, other: Any) -> float:
    """Largest difference of two outputs, as a part of the largest entry."""
    pairs = list(zip(values(one), values(other), strict=True))
    return max(float((a - b).detach().abs().max() / b.detach().abs().max().clamp(min=1e-30)) for a, b in pairs)


class Untouched:
    """The graph and the tensors of a program, bit by bit: `with Untouched(program): edit(program)`."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def _state(self) -> tuple[str, dict[str, tuple[int, Tensor]]]:
        tensors = self.program.tensors
        nodes = "\n".join(f"{node.format_node()} {node.meta.get('val')}" for node in self.program.graph.graph.nodes)
        return nodes, {name: (id(tensor), tensor.detach().clone()) for name, tensor in tensors.items()}

    def __enter__(self) -> None:
        self.before = self._state()

    def __exit__(self, *error: object) -> None:
        (nodes, tensors), (now, others) = self.before, self._state()
        assert nodes == now
        assert tensors.keys() == others.keys()
        assert all(
            which == others[name][0] and torch.equal(old, others[name][1]) for name, (which, old) in tensors.items()
        )


def assert_sound(program: Program, *args: Tensor) -> None:
    """An edited program is tidy, runs on other batches, trains, and its module's state comes back from a state dict."""
    graph = program.graph.graph
    graph.lint()
    assert [n.name for n in graph.nodes if n.op == "call_function" and not n.users and not n.is_impure()] == []
    read = {n.name for n in graph.nodes if n.op == "placeholder"}
    assert {*program.tensors} == {*program.parameters, *program.buffers}
    assert {*program.tensors} <= read
    for name, tensor in program.tensors.items():
        assert str(program.nodes[name].meta["val"].shape) == str(tensor.shape)  # known, and no symbols
    module = program.module()
    other = [torch.cat((arg, arg.flip(0), arg[:1])) for arg in args]  # another number of samples
    with torch.no_grad():
        outputs, doubled = values(module(*args)), values(module(*other))
        for one, two in zip(outputs, doubled, strict=True):
            torch.testing.assert_close(two[: len(one)], one)
    again = program.module()
    for tensor in again.state_dict().values():
        tensor.zero_()
    again.load_state_dict(module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(values(again(*args)), values(module(*args)), strict=True))
    again.train()
    sum(value.square().mean() for value in values(again(*other)) if value.is_floating_point()).backward()  # type: ignore[union-attr]
    parameters = dict(again.named_parameters())
    assert parameters
    assert all(p.grad is not None for p in parameters.values() if p.requires_grad)
