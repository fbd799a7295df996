"""One pass over each batch, forward and if needed backward, that any number of observers share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from torch import Tensor

from skiplab.data.bound_batches import Batch, BoundBatch
from skiplab.graph.interpreter import Edge, Execution, Patch, detached_tensors
from skiplab.graph.program import Program
from skiplab.measure.batches import Loss, batch_loss, map_batches
from skiplab.measure.network_variants import ORIGINAL, Variant

Gradients = Mapping[str, Tensor]  # by the parameter's name in the model


@dataclass(frozen=True)
class Hooks:
    """The hooks of one observer on one batch.

    Attributes:
        commit: called after the pass, with the gradients of the weights if there was a backward pass. The observer
            must not change before that, since a batch that does not fit into memory is run again in halves.
        edges: for an edge, a function of the value that passes; the value that it returns goes on.
        values: for an op, a function that is called with its value.
    """

    commit: Callable[[Gradients], None]
    edges: Mapping[Edge, Patch] = field(default_factory=dict)
    values: Mapping[str, Callable[[Any], None]] = field(default_factory=dict)


@runtime_checkable
class Observer(Protocol):
    """One measure as hooks on each batch, and the table of all batches."""

    backward: bool  # whether it needs gradients

    def make_hooks(self, given: BoundBatch) -> Hooks:
        """Fresh hooks for one batch."""
        ...

    def table(self) -> pd.DataFrame:
        """The result over all batches so far."""
        ...


def observe(
    program: Program,
    batches: Iterable[Batch],
    observers: Sequence[Observer],
    loss: Loss | None = None,
    variant: Variant = ORIGINAL,
) -> None:
    """Runs each batch once for all observers; `loss` is needed when one of them needs gradients."""
    backward = any(observer.backward for observer in observers)

    def work(given: BoundBatch) -> tuple[list[Hooks], Gradients]:
        hooks = [observer.make_hooks(given) for observer in observers]
        grads = (
            _backward(program, given, hooks, loss, variant) if backward else _forward(program, given, hooks, variant)
        )
        return hooks, grads

    for _, (hooks, grads) in map_batches(program, batches, work):
        for each in hooks:
            each.commit(grads)


def _forward(program: Program, given: BoundBatch, hooks: Sequence[Hooks], variant: Variant) -> Gradients:
    with torch.no_grad():
        _execution(program, given, hooks, variant, {}).finish()
    return {}


def _backward(
    program: Program, given: BoundBatch, hooks: Sequence[Hooks], loss: Loss | None, variant: Variant
) -> Gradients:
    weights = _leaves(program, variant)
    with torch.inference_mode(False), torch.enable_grad():
        output = _execution(program, given, hooks, variant, weights).finish()
        value = batch_loss(program, given, loss, output)
        value.backward()  # into tensors of this pass alone; it also reaches the leaves that observers have made
    grads = {program.parameters[node]: (weight, weight.grad) for node, weight in weights.items()}
    return {name: torch.zeros_like(weight) if grad is None else grad for name, (weight, grad) in grads.items()}


def _execution(
    program: Program, given: BoundBatch, hooks: Sequence[Hooks], variant: Variant, weights: Mapping[str, Tensor]
) -> Execution:
    patches: dict[Edge, Patch] = {}
    watch: dict[str, Callable[[Any], None]] = {}
    for each in (*hooks, variant):
        for edge, patch in each.edges.items():
            patches[edge] = _then(patches[edge], patch) if edge in patches else patch
    for each in hooks:
        for name, see in each.values.items():
            watch[name] = _both(watch[name], see) if name in watch else see
    tensors = {**detached_tensors(program), **variant.tensors, **weights}
    return Execution(program, given.args, given.kwargs, watch=watch, patches=patches, tensors=tensors)


def _then(first: Patch, second: Patch) -> Patch:
    return lambda value: second(first(value))


def _both(first: Callable[[Any], None], second: Callable[[Any], None]) -> Callable[[Any], None]:
    def see(value: Any) -> None:
        first(value)
        second(value)

    return see


def _leaves(program: Program, variant: Variant) -> dict[str, Tensor]:
    """Every real-valued parameter as a leaf that requires a gradient, frozen ones included."""
    bound = {name: variant.tensors.get(name, program.tensors[name]) for name in program.parameters}
    return {name: t.detach().requires_grad_() for name, t in bound.items() if t.is_floating_point()}
