"""New layers that an edit puts in: projections of channels, and batch norms."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.edit.graph_editor import Draft

aten = torch.ops.aten
_CONVOLUTIONS = {
    3: aten.conv1d.default,
    4: aten.conv2d.default,
    5: aten.conv3d.default,
}  # by the rank of what they take


def is_image(rank: int, dim: int) -> bool:
    """Whether values of that rank, with channels in that dimension, are what a convolution takes."""
    return dim == 1 and rank in _CONVOLUTIONS


def can_project(rank: int, dim: int) -> bool:
    """Whether there is a layer that takes each position's channels alone."""
    return is_image(rank, dim) or dim == rank - 1


def projection(rank: int, dim: int) -> Any:
    """That layer's operator: a convolution, whose kernel is 1×1, or a linear layer."""
    return _CONVOLUTIONS[rank] if is_image(rank, dim) else aten.linear.default


def as_kernel(matrix: Tensor, rank: int, dim: int) -> Tensor:
    """A matrix (out, in) in the shape that the layer's weight has."""
    return matrix.reshape(*matrix.shape, *[1] * (rank - 2)) if is_image(rank, dim) else matrix


def batch_norm(draft: Draft, path: str, name: str, channels: int, *, like: Node) -> list[Node]:
    """Weight, bias, running mean and variance of a new batch norm that changes nothing at first."""
    full = draft.free(f"{path}.{name}" if path else name)
    tensors = [
        draft.parameter(full, "weight", torch.ones(channels), like=like),
        draft.parameter(full, "bias", torch.zeros(channels), like=like),
        draft.buffer(full, "running_mean", torch.zeros(channels), like=like),
        draft.buffer(full, "running_var", torch.ones(channels), like=like),
    ]
    draft.buffer(full, "num_batches_tracked", torch.tensor(0), like=like)
    return tensors
