"""Random points for a network's inputs, and passes through it in double precision."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.graph.interpreter import Execution
from skiplab.graph.program import Program
from skiplab.graph.torch_compat import pytree

Point = tuple[tuple[Any, ...], dict[str, Any]]

_WIDE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}
# Later attempts are for networks that fail or give NaN on inputs that differ from the example.
ATTEMPTS = 3


def draw(example: Point, generator: torch.Generator, attempt: int) -> Point:
    """Random inputs that resemble an example: shapes, dtypes, devices and everything but tensors are equal.

    In the first attempt real inputs are normal with mean zero and the example's standard deviation (non-negative if the
    example is; an example of whole numbers is shuffled, since these may be codes). Integers are uniform in the
    example's range; if all are 0 or 1 they may be a mask, and are shuffled. Booleans stay unchanged. Later attempts
    add noise to the example, of a tenth and a hundredth of its standard deviation, and keep integers.
    """

    def like(value: Tensor) -> Tensor:
        if value.is_floating_point() or value.is_complex():
            return _real(widened(value.detach()), generator, attempt)
        if attempt or value.dtype == torch.bool or value.numel() == 0:
            return value
        low, high = int(value.min()), int(value.max())
        if low >= 0 and high <= 1:
            return _shuffled(value, generator)
        return torch.randint(low, high + 1, value.shape, generator=generator, dtype=torch.int64).to(value)

    args, kwargs = pytree.tree_map_only(Tensor, like, example)
    return args, kwargs


def _real(value: Tensor, generator: torch.Generator, attempt: int) -> Tensor:
    if value.numel() == 0 or not bool(value.isfinite().all()):
        return value  # may be a mask of minus infinities
    noise = torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value.device)
    center = value.mean()
    scale = (value - center).abs().square().mean().sqrt()
    constant = not float(scale) > 1e-12 * float(center.abs())
    scale = center.abs() if constant else scale
    noise = noise * (scale if float(scale) else 1)
    if attempt:
        return value + noise * 0.1**attempt
    if value.is_complex():
        return noise
    if not constant and torch.equal(value, value.round()):
        return _shuffled(value, generator)
    return noise.abs() if float(value.min()) >= 0 and float(value.max()) > 0 else noise


def _shuffled(value: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(value.numel(), generator=generator).to(value.device)
    return value.flatten()[order].reshape(value.shape)


def direction(like: Tensor, generator: torch.Generator) -> Tensor:
    """A random direction of the size of a value, with normal entries."""
    size = float(like.abs().max()) if like.numel() else 1.0
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
    return noise * (size or 1.0)


class Doubled(Execution):
    """A pass in double precision: real values are float64, complex ones complex128.

    Args:
        program: the program to run.
        point: the inputs.
        record: names of nodes whose values are kept.
        weights: the program's tensors in double precision, as `double_weights` gives them.
    """

    def __init__(self, program: Program, point: Point, record: set[str], weights: Mapping[str, Tensor]) -> None:
        super().__init__(program, *point, tensors=weights)
        self.recording(record)
        self.reached = ""  # the node that is being computed, for error messages

    def run_node(self, n: Node) -> Any:
        self.reached = n.name
        return widened(super().run_node(n))

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return call(target, args, kwargs)


def double_weights(program: Program) -> dict[str, Tensor]:
    """Copies of the parameters, buffers and constants in double precision, without their gradients."""
    real = {n: t for n, t in program.tensors.items() if t.is_floating_point() or t.is_complex()}
    return {name: widened(tensor.detach()) for name, tensor in real.items()}


def call(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Calls an operator with double precision in place of narrower dtypes among its arguments.

    `detach` passes on its argument: it changes no value, and must not stop a tangent.
    """
    if target in (torch.ops.aten.detach.default, torch.ops.aten.detach_.default):
        return args[0]
    return widened(target(*map(_wide_dtype, args), **{name: _wide_dtype(value) for name, value in kwargs.items()}))


def _wide_dtype(argument: Any) -> Any:
    return _WIDE.get(argument, argument) if isinstance(argument, torch.dtype) else argument


def widened(value: Any) -> Any:
    """A value, or each tensor of a list or tuple of them, in double precision where it is real or complex."""
    if isinstance(value, Tensor):
        return value.to(_WIDE[value.dtype]) if value.dtype in _WIDE else value
    if isinstance(value, (list, tuple)) and any(isinstance(each, Tensor) for each in value):
        return type(value)(map(widened, value)) if type(value) in (list, tuple) else value
    return value
