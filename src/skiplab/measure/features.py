"""The output of each block of a network: the value of a merge, after the activation that follows it."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from skiplab.analysis.skips import Skip, Skips
from skiplab.data.bound_batches import BoundBatch
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Execution
from skiplab.graph.program import Op, Program
from skiplab.measure.batches import finite
from skiplab.measure.input_leaves import is_real

NETWORK = "network"  # id of a row about the whole network


def outputs(program: Program, skips: Skips) -> dict[str, Op]:
    """The output op of each block, by the id of the first skip with its merge, in the order of the graph."""
    merges: dict[str, Skip] = {}
    for skip in skips:
        merges.setdefault(skip.merge, skip)
    found = {skip.id: output_of(program, skip) for skip in merges.values()}
    return dict(sorted(found.items(), key=lambda item: item[1].index))


def reduced(
    program: Program, given: BoundBatch, wanted: Mapping[str, Op], reduce: Callable[[str, Tensor], Tensor]
) -> dict[str, Tensor]:
    """`reduce(name, value)` of each wanted op's value, in one pass that drops each value after its last reader."""
    found: dict[str, Tensor] = {}
    names: dict[str, list[str]] = {}
    for name, op in wanted.items():  # a block's output may be the network's too
        names.setdefault(op.name, []).append(name)

    def watcher(op: Op, of_op: list[str]) -> Callable[[Tensor], None]:
        return lambda value: found.update({n: reduce(n, sampled(program, given, op, value, n)) for n in of_op})

    with torch.no_grad():
        watch = {op: watcher(program.by_name[op], of_op) for op, of_op in names.items()}
        Execution(program, given.args, given.kwargs, watch=watch).run_until()
    return {name: found[name] for name in wanted}


def sampled(program: Program, given: BoundBatch, op: Op, value: Tensor, name: str) -> Tensor:
    """An op's value, where it is finite and its first dimension is that of the samples; an error otherwise."""
    if program.layouts[op.index].samples != 0 or len(value) != given.size:
        raise UsageError(
            f"the output of `{name}` has shape {tuple(value.shape)} for {given.size} samples, not one entry per "
            "sample: leave it out, as in `Skips(s for s in skips if …)`"
        )
    return finite(program, given, value, f"the output of `{name}`")


def tokens(program: Program, op: Op, value: Tensor) -> Tensor:
    """An op's value as (samples, positions, channels): images (N, C, H, W) and sequences (N, T, C) alike."""
    channels = program.layouts[op.index].channels
    if value.ndim < 3 or channels is None:
        return value.reshape(len(value), 1, -1)
    return value.movedim(channels, -1).flatten(1, -2)


def output_of(program: Program, skip: Skip) -> Op:
    """A skip's merge, or where that goes through an activation before anything else reads it, the activation."""
    op = program.by_name[skip.merge]
    while skip.activation_after is not None and op.kind != "activation":  # over views that nothing else reads
        op = program.ops[program.users[op.index][0]]
    return op


def fork_of(program: Program, skip: Skip) -> Op:
    """The op at which a skip forks; where it splits a value into several, the one that makes that value."""
    op = program.by_name[skip.fork]
    while not isinstance(program.nodes[op.name].meta.get("val"), Tensor):
        op = program.ops[op.inputs[0]]
    return op


def first_real(program: Program, among: Iterable[int]) -> Op | None:
    """The first of these ops whose value is one tensor of real numbers."""
    return next((program.ops[index] for index in among if is_real(program, program.ops[index])), None)


def network_ends(program: Program) -> tuple[Op | None, Op | None]:
    """The ops that the map of the whole network starts from and ends in.

    These are its first real input, or the first embeddings of token ids, and its first real output.
    """
    return first_real(program, range(len(program.ops))), first_real(program, program.outputs)
