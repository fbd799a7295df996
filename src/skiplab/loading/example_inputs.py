"""Example inputs: from what a user types, from what a model declares, from what a callable returns."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from skiplab.errors import UsageError

Inputs = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword arguments of `forward`
InputFactory = Callable[[], Inputs]  # asked only where the user gives no input


def parse_shape(text: str) -> tuple[tuple[int, ...], torch.dtype]:
    """ "1x16:int64" as a shape and a dtype; float32 when none is named."""
    sizes, _, kind = text.partition(":")
    dtype = getattr(torch, kind or "float32", None)
    try:
        shape = tuple(int(size) for size in sizes.split("x"))
    except ValueError:
        shape = ()
    if not shape or any(size < 1 for size in shape) or not isinstance(dtype, torch.dtype):
        raise UsageError(f"--input {text}: write sizes as 1x3x224x224, with a dtype as 1x16:int64 where needed")
    return shape, dtype


def example_tensor(text: str) -> Tensor:
    """The input that a user asks for by shape and dtype, the same in every run."""
    shape, dtype = parse_shape(text)
    if dtype.is_floating_point or dtype.is_complex:
        return normal(*shape).to(dtype)
    # Small numbers are valid token ids and class labels of nearly every network.
    return torch.randint(0, 2, shape, generator=generator()).to(dtype)


def normal(*shape: int) -> Tensor:
    """Standard normal numbers, the same in every run."""
    return torch.randn(shape, generator=generator())


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def declared_inputs(name: str, model: nn.Module) -> Inputs:
    """What the model's `example_inputs()` gives, or its `example_input_shape` says (without the batch's dimension)."""
    given = getattr(model, "example_inputs", None)
    if callable(given):
        return as_arguments(given())
    shape = getattr(model, "example_input_shape", None)
    if isinstance(shape, tuple):
        return (normal(1, *shape),), {}
    raise UsageError(
        f"{name} does not say what it takes: give --input (such as --input 1x3x224x224, or 1x16:int64 for token "
        "ids), or let the callable return (model, example inputs)"
    )


def as_arguments(inputs: Any) -> Inputs:
    """Example inputs as a callable returns them: a tensor, a tuple of arguments, or a mapping of keywords."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}
