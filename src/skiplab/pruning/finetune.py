"""Training of a network after pruning."""

import dataclasses
from collections.abc import Callable

from skiplab.data import DataSet
from skiplab.graph.program import Program
from skiplab.training.checkpoint import Row
from skiplab.training.fit import fit
from skiplab.training.recipe import Recipe


def finetuned(
    program: Program, data: DataSet, recipe: Recipe, on_epoch: Callable[[Row], None] | None = None
) -> Program:
    """Trains a program and returns it with the trained weights; the given program keeps its own.

    Args:
        program: an inference graph; in training its batch norms and dropouts follow the mode (`Program.module`).
        data: the data to train on.
        recipe: how to train. A small learning rate, such as a tenth of that of the first training, is usual.
        on_epoch: called with each new row of the history; see `fit`.
    """
    trained = fit(program.module(), data, recipe, on_epoch=on_epoch, device=_device(program)).model
    tensors = dict(program.tensors)
    for node, name in {**program.parameters, **program.buffers}.items():
        owner, _, leaf = name.rpartition(".")
        tensors[node] = getattr(trained.get_submodule(owner), leaf)
    return dataclasses.replace(program, tensors=tensors)


def _device(program: Program) -> str:
    """The device of the program's tensors."""
    return str(next(iter(program.tensors.values())).device)
