"""Example inputs: from shapes on the command line, from a model's declaration, or from a callable's return value."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.graph.inputs import Inputs, as_arguments

InputFactory = Callable[[], Inputs]  # called only if the user gives no input


def parse_shape(text: str) -> tuple[tuple[int, ...], torch.dtype]:
    """The shape and dtype of a text such as "1x16:int64"; the default dtype is float32.

    Raises:
        UsageError: a size is below 1, or torch has no such dtype.
    """
    sizes, _, kind = text.partition(":")
    dtype = getattr(torch, kind or "float32", None)
    try:
        shape = tuple(int(size) for size in sizes.split("x"))
    except ValueError:
        shape = ()
    if not shape or any(size < 1 for size in shape) or not isinstance(dtype, torch.dtype):
        raise UsageError(f"--input {text}: write sizes such as 1x3x224x224, or with a dtype such as 1x16:int64")
    return shape, dtype


def example_tensor(text: str) -> Tensor:
    """A tensor of the shape and dtype in `text` (see `parse_shape`), with the same values in every run."""
    shape, dtype = parse_shape(text)
    if dtype.is_floating_point or dtype.is_complex:
        return normal(*shape).to(dtype)
    # 0 and 1 are valid token ids and class labels of nearly every network.
    return torch.randint(0, 2, shape, generator=generator()).to(dtype)


def normal(*shape: int) -> Tensor:
    """A tensor of standard normal values, the same in every run."""
    return torch.randn(shape, generator=generator())


def generator() -> torch.Generator:
    """A new generator with seed 0."""
    return torch.Generator().manual_seed(0)


def declared_inputs(name: str, model: nn.Module) -> Inputs:
    """Inputs from the model's method `example_inputs()`, or its attribute `example_input_shape` (without the batch).

    Raises:
        UsageError: the model has neither.
    """
    method = getattr(model, "example_inputs", None)
    if callable(method):
        return as_arguments(method())
    shape = getattr(model, "example_input_shape", None)
    if isinstance(shape, tuple):
        return (normal(1, *shape),), {}
    raise UsageError(
        f"{name} declares no example input: give --input (such as --input 1x3x224x224, or 1x16:int64 for token ids), "
        "or return (model, example inputs) from the callable"
    )
