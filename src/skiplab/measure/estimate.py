"""What deleting each branch would cost, estimated for all branches at once from two gradients."""

import warnings
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
import torch
from scipy.stats import ConstantInputWarning, spearmanr
from torch import Tensor

from skiplab.analysis.edges import branch_edges
from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import Batch, BoundBatch, require_again
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Edge
from skiplab.graph.program import Program
from skiplab.measure.batches import Loss, finite, loss_of, map_batches
from skiplab.measure.edge_gradients import Gates
from skiplab.measure.ggn_probe import Probe, probe_of
from skiplab.measure.lesion import lesion
from skiplab.measure.lesions.runner import require_trained
from skiplab.measure.moments import Moments


def estimate(
    program: Program, skips: Skips, batches: Iterable[Batch], loss: Loss, probe: Probe | None = None, exact: int = 8
) -> pd.DataFrame:
    """Estimates of what `lesion` measures, for all branches together in the time of about four forward passes.

    Let f be a branch's values as they enter the merge and ℓ a sample's loss. Replacing f by (1 − α)·f, α from 0 to 1,
    changes the loss, up to second order in α, by

    - first_order: the mean over samples of −⟨∂ℓ/∂f, f⟩ (Molchanov et al. 2017, arXiv:1611.06440, §2.2, with its
      sign; "attribution patching"). By itself it fails near a minimum, where slopes vanish.
    - curvature: the mean of ½⟨∂(z·v)/∂f, f⟩² with z the output and v random, E[v vᵀ] = ∂²ℓ/∂z²: the Gauss–Newton
      term, from one draw a sample. Never negative; the network's own curvature is left out.
    - loss_change: the sum of both.

    All are in the loss's unit and scale with it. But for the draw they are exact where the network is linear from the
    merge on and the loss quadratic in its output. The draw is the same in every call.

    Elsewhere it is for the network at hand to show what they are worth: `exact` skips, spread over the order of the
    estimates, are lesioned as well, each at the cost of a part of a forward pass. `table.attrs` then has their number,
    "checked", and "spearman", the rank correlation of estimated and exact (NaN for fewer than three).

    Args:
        program: the captured, trained network (not the training graph: batch norm must use its statistics).
        skips: those whose branches are deleted, one at a time.
        batches: pairs (inputs, target), gone through twice unless `exact` is 0.
        loss: (output, target) -> mean over the batch.
        probe: (output, target, generator) -> Σ z·v, where torch's own cross_entropy, mse_loss or
            binary_cross_entropy_with_logits is not the whole loss; see `skiplab.measure.ggn_probe`.
        exact: how many estimates are held against exact lesions.

    Returns:
        One row a skip: id, order, samples, loss_change, first_order, curvature.
    """
    skips.check(program).require_merges()
    require_trained(program)
    _check(batches, exact)
    project = probe or probe_of(loss)
    edges = [tuple(dict.fromkeys(branch_edges(program, skip))) for skip in skips]
    terms, samples = Moments(), 0

    @torch.enable_grad()
    def work(given: BoundBatch) -> Tensor:
        gates = Gates(program, given, {edge for of_skip in edges for edge in of_skip})
        value = loss_of(program, given, loss, gates.output)
        generator = torch.Generator(value.device).manual_seed(samples)
        slopes = gates.backward(value, again=True)
        bends = gates.backward(project(gates.output, given.target, generator))
        found = torch.cat([-given.size * _of_skips(edges, slopes), _of_skips(edges, bends).square() / 2], 1)
        return finite(program, given, found, "the gradient of the whole network")

    for given, found in map_batches(program, batches, work) if edges else ():
        terms.add(found)
        samples += given.size
    table = _table(program, skips, terms.means() if edges else torch.empty(0), samples)
    if exact and edges:
        table.attrs = _agreement(lambda some: lesion(program, some, batches, loss), skips, table["loss_change"], exact)
    return table


def _check(batches: Iterable[Batch], exact: int) -> None:
    if exact < 0:
        raise UsageError(f"exact={exact}: give the number of skips to lesion, or 0 for none")
    if exact:
        require_again(batches, f"the data is read again for {exact} exact lesions (exact=0 leaves them out)")


def _of_skips(edges: list[tuple[Edge, ...]], found: Mapping[Edge, Tensor]) -> Tensor:
    """(samples, skips): a skip's branches are deleted together, so that their slopes add up."""
    return torch.stack([torch.stack([found[edge] for edge in of_skip]).sum(0) for of_skip in edges], 1)


def _table(program: Program, skips: Skips, terms: Tensor, samples: int) -> pd.DataFrame:
    first, curvature = terms.reshape(2, len(skips)).tolist()
    return pd.DataFrame(
        {
            "id": [skip.id for skip in skips],
            "order": [program.by_name[skip.merge].index for skip in skips],
            "samples": samples,
            "loss_change": [a + b for a, b in zip(first, curvature, strict=True)],
            "first_order": first,
            "curvature": curvature,
        }
    )


def _agreement(measure: Callable[[Skips], pd.DataFrame], skips: Skips, estimates: pd.Series, exact: int) -> dict:
    """Exact lesions of some skips beside their estimates."""
    places = np.linspace(0, len(skips) - 1, min(exact, len(skips))).round().astype(int)
    picked = estimates.to_numpy().argsort()[places]
    some = Skips(skips[int(i)] for i in picked)
    measured = measure(some).set_index("id")["loss_change"][[skip.id for skip in some]]
    correlation = float("nan")
    if len(some) > 2:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantInputWarning)  # then there is no order, and NaN says so
            correlation = float(spearmanr(estimates.iloc[picked], measured).statistic)  # type: ignore[attr-defined]
    return {"spearman": correlation, "checked": len(some)}
