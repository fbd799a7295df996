"""Compares a network that was read back from a file with the program."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skiplab.errors import OutputError
from skiplab.graph.differences import largest_difference
from skiplab.graph.interpreter import run
from skiplab.graph.program import Program
from skiplab.graph.rng import isolated_rng
from skiplab.graph.torch_compat import pytree

Network = Callable[..., Any]


@dataclass(frozen=True)
class Answer:
    """One batch, and the tensors of the program's output for it, in order."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: list[Tensor]


def answers(program: Program) -> list[Answer]:
    """The answers for the example, and for another batch size if the batch size is free."""
    found = []
    for args, kwargs in [program.example, *([_other_size(program)] if program.dynamic_batch else [])]:
        try:
            found.append(Answer(args, kwargs, _of_program(program, args, kwargs)))
        except Exception:
            if not found:
                raise  # the network may not take the other size
    return found


def answers_on_example(program: Program) -> list[Tensor]:
    """The tensors of a program's output for its example."""
    return _of_program(program, *program.example)


def _of_program(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    return outputs(lambda *a, **k: run(program, *a, **k), args, kwargs)


def outputs(network: Network, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors of a network's output, with the same random numbers in each call. Inputs are copied before."""
    args, kwargs = pytree.tree_map_only(Tensor, torch.clone, (args, dict(kwargs)))
    with torch.no_grad(), isolated_rng(0):
        return [leaf for leaf in pytree.tree_leaves(network(*args, **kwargs)) if isinstance(leaf, Tensor)]


def check(network: Network, known: list[Answer], what: str) -> float:
    """The largest difference from the answers; OutputError if it is more than rounding."""
    return max(_check(outputs(network, each.args, each.kwargs), each.outputs, what) for each in known)


def largest(before: list[Tensor], after: list[Tensor]) -> float:
    """The largest absolute difference between tensors of the same shapes; 0 where there are no numbers."""
    return max((largest_difference(a, b) for a, b in zip(before, after, strict=True)), default=0.0)


def _check(got: list[Tensor], wanted: list[Tensor], what: str) -> float:
    if [tuple(each.shape) for each in got] != [tuple(each.shape) for each in wanted]:
        forms = [", ".join(str(tuple(each.shape)) for each in values) or "nothing" for values in (got, wanted)]
        raise OutputError(f"{what}, read back, gives {forms[0]} where the network gives {forms[1]}: it was not written")
    for there, here in zip(got, wanted, strict=True):
        far, limit = largest_difference(there, here), rounding(here)
        if not far <= limit:
            raise OutputError(
                f"{what}, read back, differs from the network by {far:.2g} where rounding explains {limit:.2g}: it was "
                "not written; choose another of the formats python, pt2 and onnx"
            )
    return largest(got, wanted)


def rounding(value: Tensor) -> float:
    """The tolerance for rounding: half of the dtype's digits of the largest number; 0 for whole numbers."""
    if not (value.is_floating_point() or value.is_complex()):
        return 0.0
    known = value.detach()[value.isfinite()].abs()
    return math.sqrt(torch.finfo(value.dtype).eps) * (float(known.max()) if known.numel() else 1.0)


def _other_size(program: Program) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example with a multiple of its batch size (some networks take only these), and different samples."""
    leaves = program.flatten(*program.example)
    for place, name in enumerate(program.inputs):
        value = program.nodes[name].meta.get("val")
        if isinstance(value, Tensor) and value.ndim and not isinstance(value.shape[0], int):
            leaves[place] = _several(leaves[place])
    return pytree.tree_unflatten(leaves, program.specs[0])


def _several(batch: Tensor) -> Tensor:
    copies = 2 if len(batch) > 1 else 3
    if not batch.is_floating_point():
        return torch.cat([batch] * copies)
    return torch.cat([batch * (1 - 0.25 * i) for i in range(copies)])
