"""Multiplication by a formal variable z, for gradients that are polynomials in z.

The coefficients of a polynomial lie along the dimension over which `torch.func.vmap` maps a backward pass; to
multiply by z is to shift them by one.
"""

from typing import Any

import torch
from torch import Tensor


def raised(value: Tensor) -> Tensor:
    """The value itself, whose gradient is multiplied by z on its way back."""
    return _Raised.apply(value) if value.requires_grad else value  # type: ignore[return-value]


class _Raised(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: ARG004 (the base class names it)
        return _Shifted.apply(grads[0])


class _Shifted(torch.autograd.Function):
    """Has a meaning only under `vmap`: alone, a gradient is the coefficient of z⁰, and moves out of sight."""

    @staticmethod
    def forward(grad: Tensor) -> Tensor:
        return torch.zeros_like(grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[Tensor, int | None]:  # noqa: ARG004
        (dim,), (grad,) = in_dims, args
        if dim is None:
            return torch.zeros_like(grad), None
        grad = grad.movedim(dim, 0)
        return torch.cat([torch.zeros_like(grad[:1]), grad[:-1]]), 0
