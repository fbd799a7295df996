"""Replacements of a branch or shortcut: zeros, its mean, noise of the same moments, or another sample's value."""

import zlib
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from skiplab.errors import DataError, UsageError
from skiplab.graph.interpreter import Edge, Execution, Patch
from skiplab.graph.program import Program
from skiplab.measure.lesions.resumable_pass import Part, Passes, State

Replacement = Callable[[Edge, Part], Patch]
Moments = Mapping[str, tuple[Tensor, Tensor]]  # op -> mean and variance over samples, of the shape of one sample


def zero(_edge: Edge, _part: Part) -> Patch:
    """Zeros of the same shape."""
    return torch.zeros_like


def mean(moments: Moments) -> Replacement:
    """Each entry's mean over all samples."""

    def replacement(edge: Edge, _part: Part) -> Patch:
        return lambda value: moments[edge[1]][0].to(value).expand_as(value).clone()

    return replacement


def noise(program: Program, moments: Moments, seed: int) -> Replacement:
    """Normal noise with the mean and variance of each channel over samples and positions."""

    def replacement(edge: Edge, part: Part) -> Patch:
        def patch(value: Tensor) -> Tensor:
            generator = torch.Generator(value.device).manual_seed(_seed(seed, *edge, part.offset))
            standard = torch.randn(value.shape, generator=generator, dtype=value.dtype, device=value.device)
            dim = program.layouts[program.by_name[edge[1]].index].require_channels(f"`{edge[1]}`")
            average, deviation = of_channels(moments[edge[1]], dim)
            return average.to(value) + deviation.to(value) * standard

        return patch

    return replacement


def shuffle(program: Program, seed: int) -> Replacement:
    """Another sample's value from the same batch: all samples are rolled by the same random number of places.

    The number is the same for all lesions, so that they are compared on the same pairs of samples.
    """

    def replacement(edge: Edge, part: Part) -> Patch:
        size = part.given.size
        if size < 2:
            raise DataError(
                f"sample {part.offset} is alone in its batch, and `shuffle` needs another sample's value: drop it, or "
                "use larger batches (or more `memory`)"
            )
        generator = torch.Generator().manual_seed(_seed(seed, part.offset))
        shift = int(torch.randint(1, size, (), generator=generator))

        def patch(value: Tensor) -> Tensor:
            _one_a_sample(program, value, size, edge[1])
            return value.roll(shift, 0)

        return patch

    return replacement


def branch_moments(passes: Passes, name: str, operands: Collection[str]) -> Moments:
    """Mean and variance over all samples of the values of some ops in the whole network."""

    def work(part: Part) -> State:
        sums: State = {"count": torch.tensor(part.given.size)}

        def watcher(operand: str) -> Callable[[Tensor], None]:
            def see(value: Tensor) -> None:
                values = _one_a_sample(passes.program, value, part.given.size, operand).double()
                sums[operand] = torch.stack((values.sum(0), values.square().sum(0))).cpu()

            return see

        watch = {operand: watcher(operand) for operand in operands}
        Execution(passes.program, part.given.args, part.given.kwargs, watch=watch).finish()
        part.tick(1)
        return sums

    sums = passes.fold(name, work, lambda old, new: {key: old[key] + new[key] for key in old})
    count = sums.pop("count")
    averages = {operand: both[0] / count for operand, both in sums.items()}
    return {o: (average, (sums[o][1] / count - average.square()).clamp(min=0)) for o, average in averages.items()}


def of_channels(moments: tuple[Tensor, Tensor], dim: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, of shapes that broadcast with a sample; `dim` counts the batch's."""
    average, variance = (each.movedim(dim - 1, 0).flatten(1) if each.ndim > 1 else each[:, None] for each in moments)
    mixed = average.mean(1)
    deviation = (variance.mean(1) + average.var(1, correction=0)).sqrt()
    shape = [-1 if d == dim - 1 else 1 for d in range(moments[0].ndim)]
    return mixed.reshape(shape), deviation.reshape(shape)


def _one_a_sample(program: Program, value: Tensor, size: int, name: str) -> Tensor:
    if program.layouts[program.by_name[name].index].samples != 0 or len(value) != size:
        raise UsageError(
            f"`{name}` has shape {tuple(value.shape)} for {size} samples: mean, noise and shuffle need values whose "
            "first dimension is the samples; delete it instead (kind 'branch')"
        )
    return value


def _seed(*parts: object) -> int:
    return zlib.crc32(repr(parts).encode())
