"""Multiplication by a formal variable z, for gradients that are polynomials in z.

The coefficients of a polynomial lie along the dimension that `torch.func.vmap` maps a backward pass over;
multiplication by z shifts them by one.
"""

from typing import Any

import torch
from torch import Tensor


def times_z(value: Tensor) -> Tensor:
    """The value itself; its gradient is multiplied by z in the backward pass."""
    return _TimesZ.apply(value) if value.requires_grad else value  # type: ignore[return-value]


class _TimesZ(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: ARG004 (the base class names it)
        return _Shift.apply(grads[0])


class _Shift(torch.autograd.Function):
    """For use under `vmap`: a gradient alone is the coefficient of z⁰, and is shifted out."""

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
