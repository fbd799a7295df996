"""Random projections of a network's output that carry the curvature of a loss: Gauss–Newton probes.

A probe of (output, target) is a scalar Σ z·v, with z the output and v a random constant, such that E[v vᵀ] of each
sample is the Hessian of that sample's loss in z. (The batch's loss is the mean of the samples' losses.) With Jδ the
change of z by a small change δ, ½ E[(v·Jδ)²] is then the loss's second-order term in δ, without the curvature of the
network itself. Schraudolph 2002, "Fast curvature matrix-vector products", §3; the factors as in
Dangel et al. 2020, BackPACK, with random signs.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from skiplab.errors import UsageError

Probe = Callable[[Any, Any, torch.Generator], Tensor]  # (output, target, generator) -> Σ z·v, a scalar


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    generator: torch.Generator,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,  # noqa: ARG001 (it changes the target, and the Hessian does not depend on it)
) -> Tensor:
    """Of `F.cross_entropy` of logits (N, C) or (N, C, …): v = (√p⊙s − p(√p·s)) √w, since H = w (diag p − ppᵀ).

    w is the weight of a position in its sample's loss: N over the number of positions that are not ignored.
    """
    p = logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)  # float16 overflows below
    known = torch.ones_like(p[:, :1]) if target.is_floating_point() else (target != ignore_index).unsqueeze(1).to(p)
    weight = len(p) * known / known.sum()
    signed = p.sqrt() * _signs(p, generator)
    return _projected(logits, (signed - p * signed.sum(1, keepdim=True)) * weight.sqrt())


def mse(output: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001 (not in H)
    """Of `F.mse_loss`: v = s √(2/D), since H = 2/D, with D the number of a sample's values."""
    return _projected(output, _signs(output, generator) * (2 * len(output) / output.numel()) ** 0.5)


def binary_cross_entropy_with_logits(logits: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """Of `F.binary_cross_entropy_with_logits`: v = s √(σ(1 − σ)/D), since H = σ(1 − σ)/D."""
    slope = torch.sigmoid(logits.detach())
    scale = slope * (1 - slope) * len(logits) / logits.numel()
    return _projected(logits, _signs(logits, generator) * scale.sqrt())


_BUILT_IN = (
    (F.cross_entropy, cross_entropy),
    (F.mse_loss, mse),
    (F.binary_cross_entropy_with_logits, binary_cross_entropy_with_logits),
)


def probe_of(loss: Callable[..., Any]) -> Probe:
    """The probe of one of torch's losses, or of a `functools.partial` of it; UsageError for any other loss."""
    function, options = loss, {}
    if isinstance(loss, functools.partial) and not loss.args:
        function, options = loss.func, loss.keywords
    probe = next((probe for known, probe in _BUILT_IN if known is function), None)
    if probe is None or set(options) - set(inspect.signature(probe).parameters):
        raise UsageError(
            f"no probe is built in for the loss {getattr(loss, '__name__', loss)}, only for F.cross_entropy (with "
            "ignore_index and label_smoothing), F.mse_loss and F.binary_cross_entropy_with_logits: give "
            "probe=function(output, target, generator), a scalar Σ z·v of the values z of the output in the loss, "
            "with v random and E[v vᵀ] the Hessian of each sample's loss in z; compose it of the probes of these three "
            "in skiplab.measure.ggn_probe"
        )
    return functools.partial(probe, **options)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random ±1; the same for an output of the same shape in any memory layout."""
    drawn = torch.empty(like.shape, dtype=like.dtype, device=like.device)
    return drawn.bernoulli_(0.5, generator=generator) * 2 - 1


def _projected(output: Tensor, v: Tensor) -> Tensor:
    return (output * v.detach()).sum()
