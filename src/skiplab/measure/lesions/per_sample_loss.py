"""The loss of each sample, for loss functions that are a mean over samples."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from skiplab.errors import UsageError
from skiplab.graph.torch_compat import pytree
from skiplab.measure.batches import Loss


def losses(functions: Sequence[Loss], output: Any, target: Any, size: int) -> tuple[Tensor, Tensor | None]:
    """The batch's mean of each function, shape (functions,), and the values by sample, (samples, functions).

    The latter are None when one of the functions is no mean over samples.
    """
    pairs = [_of(function, output, target, size) for function in functions]
    samples = [own for _, own in pairs if own is not None]
    means = torch.stack([value for value, _ in pairs])
    return means, torch.stack(samples, 1) if len(samples) == len(pairs) else None


def _of(function: Loss, output: Any, target: Any, size: int) -> tuple[Tensor, Tensor | None]:
    value = function(output, target).detach()
    if value.ndim == 1 and len(value) == size:
        samples = value.cpu().double()
        return samples.mean(), samples
    if value.numel() != 1:
        raise UsageError(
            f"the loss of {size} samples has shape {tuple(value.shape)}: return the batch's mean, or one value a sample"
        )
    samples = _alone(function, output, target, size)
    if samples is not None and not _is_mean(value, samples):
        samples = None
    return value.cpu().double().reshape(()), samples


def _alone(function: Loss, output: Any, target: Any, size: int) -> Tensor | None:
    """The function of each sample as a batch of one; None where it fails."""
    leaves, spec = pytree.tree_flatten((output, target))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == size]
    if not places:
        return None

    def one(*parts: Tensor) -> Tensor:
        own = dict(zip(places, (part[None] for part in parts), strict=True))
        return function(*pytree.tree_unflatten([own.get(i, leaf) for i, leaf in enumerate(leaves)], spec)).reshape(())

    parts = [leaves[i] for i in places]
    try:
        try:
            values = torch.vmap(one)(*parts)
        except Exception:  # no batching rule, such as for control flow on a value
            values = torch.stack([one(*each) for each in zip(*parts, strict=True)])
    except Exception:  # undefined for one sample, so no mean over samples
        return None
    return values.detach().cpu().double()


def _is_mean(value: Tensor, samples: Tensor) -> bool:
    """Whether the batch's value is the samples' mean, up to rounding. A weighted loss is not."""
    mean = samples.mean()
    if not value.isfinite() or not mean.isfinite():
        return not value.isfinite() and not mean.isfinite()
    precision = torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
    return abs(float(value) - float(mean)) <= precision**0.5 * float(samples.abs().mean())
