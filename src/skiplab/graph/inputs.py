"""The inputs of a model: their form, and the same inputs with another number of samples."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from skiplab.graph.torch_compat import pytree

Inputs = tuple[tuple[Any, ...], dict[str, Any]]  # (args, kwargs) of a model's `forward`


def as_arguments(inputs: Any) -> Inputs:
    """Arguments of `forward` from a tensor, a tuple or list of arguments, or a mapping of keyword arguments."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def batch_size(example: Inputs) -> int | None:
    """The first dimension that most inputs share; None without a tensor."""
    tensors = [leaf for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor) and leaf.ndim]
    sizes = Counter(tensor.shape[0] for tensor in tensors)
    return sizes.most_common(1)[0][0] if sizes else None


def with_batch_size(example: Inputs, size: int, new: int) -> Inputs:
    """The example with `new` samples, repeated, in all inputs that have `size` of them."""

    def resize(tensor: Tensor) -> Tensor:
        if not tensor.ndim or tensor.shape[0] != size or size == new:
            return tensor
        return tensor[torch.arange(new, device=tensor.device) % size]

    return pytree.tree_map_only(Tensor, resize, example)
