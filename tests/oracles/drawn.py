"""Random batches that a program takes: in the form of its example, with other numbers and other sizes."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from skiplab.graph.program import Program


def drawn(program: Program, *sizes: int, classes: int = 3) -> list[tuple[Any, Tensor]]:
    """Batches (inputs, class indices), with integers among those of the example."""
    generator = torch.Generator().manual_seed(0)

    def like(value: Any, size: int) -> Any:
        if not isinstance(value, Tensor):
            return value
        shape = (size, *value.shape[1:])
        if value.is_floating_point():
            return torch.randn(shape, generator=generator, dtype=value.dtype)
        return torch.randint(0, int(value.max()) + 1, shape, generator=generator)

    batches = []
    for size in sizes:
        args, kwargs = pytree.tree_map(lambda value, size=size: like(value, size), program.example)
        batches.append((kwargs or args, torch.arange(size) % classes))
    return batches
