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
# The last are for a network that fails, or gives NaN, on anything but inputs like the example.
ATTEMPTS = 3


def draw(example: Point, generator: torch.Generator, attempt: int) -> Point:
    """An example's look-alike: shapes, dtypes, devices and anything that is no tensor as in the example.

    At the first attempt real inputs are normal with the example's deviation about zero (non-negative where the
    example is; shuffled where it holds different whole numbers alone, which are codes), and integers uniform in
    the example's range; those that are all 0 or 1 may be a mask, and are shuffled. Truth values stay. Later
    attempts stay nearer: the example with noise of a tenth, then a hundredth of its deviation, integers as they are.
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
        return value  # a mask of minus infinities
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
    """A random direction of the size of a value: normal entries, all different and none of them zero."""
    size = float(like.abs().max()) if like.numel() else 1.0
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
    return noise * (size or 1.0)


class Doubled(Execution):
    """A pass in which every real value is float64 and every complex one complex128.

    Args:
        program: what to run.
        point: the inputs.
        record: nodes whose values are kept.
        weights: the program's tensors in double precision, as `double_weights` gives them.
    """

    def __init__(self, program: Program, point: Point, record: set[str], weights: Mapping[str, Tensor]) -> None:
        super().__init__(program, *point, tensors=weights)
        self.recording(record)
        self.reached = ""  # the node that is being computed, for an error's message

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
    """Calls an operator with every narrower dtype in its arguments replaced by its double.

    A stopped gradient stops no value, so `detach` must not hide a tangent either.
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
