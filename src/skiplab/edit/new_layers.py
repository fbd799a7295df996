"""New layers that edits insert: projections of channels, and batch norms."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.edit.graph_editor import GraphEditor

aten = torch.ops.aten
_CONVOLUTIONS = {
    3: aten.conv1d.default,
    4: aten.conv2d.default,
    5: aten.conv3d.default,
}  # by the rank of their input


def is_image(rank: int, dim: int) -> bool:
    """Whether a convolution takes values of that rank with channels in that dimension."""
    return dim == 1 and rank in _CONVOLUTIONS


def can_project(rank: int, dim: int) -> bool:
    """Whether a layer exists that maps the channels of each position."""
    return is_image(rank, dim) or dim == rank - 1


def projection(rank: int, dim: int) -> Any:
    """The operator of that layer: a convolution, with a 1×1 kernel, or a linear layer."""
    return _CONVOLUTIONS[rank] if is_image(rank, dim) else aten.linear.default


def as_kernel(matrix: Tensor, rank: int, dim: int) -> Tensor:
    """A matrix (out, in) in the shape of the layer's weight."""
    return matrix.reshape(*matrix.shape, *[1] * (rank - 2)) if is_image(rank, dim) else matrix


def batch_norm(editor: GraphEditor, path: str, name: str, channels: int, *, like: Node) -> list[Node]:
    """Weight, bias, running mean and running variance of a new batch norm that starts as the identity."""
    full = editor.free_name(f"{path}.{name}" if path else name)
    tensors = [
        editor.parameter(full, "weight", torch.ones(channels), like=like),
        editor.parameter(full, "bias", torch.zeros(channels), like=like),
        editor.buffer(full, "running_mean", torch.zeros(channels), like=like),
        editor.buffer(full, "running_var", torch.ones(channels), like=like),
    ]
    editor.buffer(full, "num_batches_tracked", torch.tensor(0), like=like)
    return tensors
