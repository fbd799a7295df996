"""Batch norm statistics of a changed network, re-estimated on data like `torch.optim.swa_utils.update_bn`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.errors import DataError, UsageError
from skiplab.graph.interpreter import Patch
from skiplab.graph.ops import operator_name
from skiplab.graph.program import Program
from skiplab.measure.lesions.prefix_sharing import forks
from skiplab.measure.lesions.resumable_pass import Part, Passes, State
from skiplab.measure.lesions.spec import Lesion, Patches

Seen = dict[str, Tensor]  # call of a batch norm -> its batch's mean, variance and unbiased variance: (3, channels)


@dataclass(frozen=True)
class Norm:
    """One batch norm: the nodes of its statistics, and its calls, each with the node that it normalizes."""

    mean: str
    variance: str
    calls: Mapping[str, str]


def require_batch_norms(program: Program) -> list[Norm]:
    """`find_batch_norms`; UsageError when there are none."""
    found = find_batch_norms(program)
    if not found:
        raise UsageError(f"{program.name} has no batch norm with statistics to re-estimate: leave `reestimate` out")
    return found


def find_batch_norms(program: Program) -> list[Norm]:
    """The batch norms that have statistics, in order of their first calls."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for node in program.nodes.values():
        if operator_name(node.target) == "batch_norm":
            value, _, _, mean, variance, by_batch = node.args[:6]
            if isinstance(value, Node) and isinstance(mean, Node) and isinstance(variance, Node) and not by_batch:
                found.setdefault((mean.name, variance.name), {})[node.name] = value.name
    return [Norm(*statistics, calls) for statistics, calls in found.items()]


def reestimate_batch_norms(passes: Passes, name: str, lesions: Sequence[Lesion]) -> tuple[list[Lesion], Patches]:
    """The lesioned networks with re-estimated statistics, and patches that give the whole network its own.

    A statistic is the plain mean, over batches (and over calls of a shared batch norm), of the batch's mean or
    unbiased variance, in a network that normalizes by the batch. Lesioned networks share the whole network's
    statistics before the lesion. Izmailov et al. 2018, arXiv:1803.05407, §3.2.
    """
    program = passes.program
    every = require_batch_norms(program)
    place = {node: i for i, node in enumerate(program.nodes)}
    own = [[norm for norm in every if any(place[call] >= place[les.start] for call in norm.calls)] for les in lesions]
    own.append(every)

    def work(part: Part) -> State:
        sums = {str(i): _packed(seen, own[i]) for i, seen in _observed(program, part, lesions, every)}
        return {"batches": torch.ones(()), **sums}

    state = passes.fold(name, work, lambda old, new: {key: old[key] + new[key] for key in old})
    batches = state.pop("batches")
    patches = [_unpacked(state[str(i)] / batches, norms_, program) for i, norms_ in enumerate(own)]
    return [_with(place, *each) for each in zip(lesions, patches[:-1], strict=True)], patches[-1]


def _with(place: Mapping[str, int], lesion: Lesion, statistics: Patches) -> Lesion:
    """A shared batch norm may also be called before the lesion: the network then differs from there on."""
    begin = min([lesion.start, *(reader for reader, _ in statistics)], key=place.__getitem__)
    return replace(lesion, start=begin, patches=lambda part: {**lesion.patches(part), **statistics})


def _observed(
    program: Program, part: Part, lesions: Sequence[Lesion], every: Sequence[Norm]
) -> Iterator[tuple[int, Seen]]:
    """The batch statistics of each network, when its batch norms normalize by the batch."""
    whole: Seen = {}
    seen: dict[int, Seen] = {len(lesions): whole}

    def observing(place: int, lesion: Lesion) -> Lesion:
        def patches(part: Part) -> Patches:
            seen[place] = dict(whole)  # what the whole network has seen before the fork
            before = lesion.patches(part)
            return {**before, **_by_batch(every, seen[place], before)}

        return replace(lesion, patches=patches)

    observers = [observing(place, lesion) for place, lesion in enumerate(lesions)]
    for place, execution in forks(program, part, observers, _by_batch(every, whole, {})):
        execution.finish()
        yield place, seen.pop(place)


def _by_batch(every: Sequence[Norm], seen: Seen, before: Patches) -> Patches:
    """Patches that give each batch norm its batch's statistics; its value arrives before them."""
    patches: dict[Any, Patch] = {}
    for norm in every:
        for call, value in norm.calls.items():
            patches[call, value] = _noting(call, seen, before.get((call, value)))
            patches[call, norm.mean] = lambda old, call=call: seen[call][0].to(old)
            patches[call, norm.variance] = lambda old, call=call: seen[call][1].to(old)
    return patches


def _noting(call: str, seen: Seen, before: Patch | None) -> Patch:
    def note(value: Tensor) -> Tensor:
        value = value if before is None else before(value)
        count = value.numel() // value.shape[1]
        if count < 2:
            raise DataError(f"`{call}` gets one value a channel, which has no variance: re-estimate on larger batches")
        exact = value.to(torch.promote_types(value.dtype, torch.float32))
        variance, mean = torch.var_mean(exact, [d for d in range(value.ndim) if d != 1], correction=0)
        seen[call] = torch.stack((mean, variance, variance * (count / (count - 1))))
        return value

    return note


def _packed(seen: Seen, some: Sequence[Norm]) -> Tensor:
    """One vector, so that the state has one tensor per network rather than per batch norm."""
    parts = [torch.stack([seen[call] for call in norm.calls]).mean(0)[[0, 2]].flatten() for norm in some]
    return torch.cat(parts).cpu().double() if parts else torch.zeros(0, dtype=torch.double)


def _unpacked(packed: Tensor, some: Sequence[Norm], program: Program) -> Patches:
    patches: dict[Any, Patch] = {}
    begun = 0
    for norm in some:
        channels = program.nodes[norm.mean].meta["val"].numel()
        mean, variance = packed[begun : begun + 2 * channels].reshape(2, channels)
        begun += 2 * channels
        for call in norm.calls:
            patches[call, norm.mean] = lambda old, new=mean: new.to(old)
            patches[call, norm.variance] = lambda old, new=variance: new.to(old)
    return patches
