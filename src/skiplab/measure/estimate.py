"""The change in loss when each branch is deleted, estimated for all branches at once from two gradients."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import ConstantInputWarning, spearmanr
from torch import Tensor

from skiplab.analysis.edges import branch_edges
from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import Batch, BoundBatch, require_reiterable
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Edge
from skiplab.graph.program import Program
from skiplab.measure.batches import Loss, batch_loss, finite, map_batches
from skiplab.measure.edge_gradients import Gates
from skiplab.measure.ggn_probe import Probe, probe_of
from skiplab.measure.lesion import lesion
from skiplab.measure.lesions.runner import require_trained
from skiplab.measure.losses import NamedLoss, named_loss
from skiplab.measure.moments import Moments
from skiplab.measure.protocol import ORDER, SAMPLES, SKIP_ID, Measure
from skiplab.measure.table import MeasureTable
from skiplab.stats.columns import Column
from skiplab.stats.wording import counted, farthest, finite_in


def estimate(
    program: Program,
    skips: Skips,
    batches: Iterable[Batch],
    loss: Loss | str,
    probe: Probe | None = None,
    exact: int = 8,
) -> MeasureTable:
    """Estimates what `lesion` measures, for all branches together in the time of about four forward passes.

    Let f be a branch's value as it enters the merge and ℓ a sample's loss. Replacing f by (1 − α)·f, α from 0 to 1,
    changes the loss, up to second order in α, by

    - first_order: the mean over samples of −⟨∂ℓ/∂f, f⟩ (Molchanov et al. 2017, arXiv:1611.06440, §2.2, with its
      sign; "attribution patching"). Alone it fails near a minimum, where slopes vanish.
    - curvature: the mean of ½⟨∂(z·v)/∂f, f⟩² with z the output and v random, E[v vᵀ] = ∂²ℓ/∂z²: the Gauss–Newton
      term, from one random v a sample. Never negative; the network's own curvature is ignored.
    - loss_change: the sum of both.

    All are in the loss's unit and scale with it. Except for the randomness of v they are exact where the network is
    linear after the merge and the loss is quadratic in its output. v is the same in every call.

    In general the estimates are checked on the network itself: `exact` skips, spread over the order of the estimates,
    are also lesioned, each at the cost of a part of a forward pass. `table.attrs` then has their number, "checked",
    and "spearman", the rank correlation of estimated and exact changes (NaN for fewer than three).

    Args:
        program: the captured, trained network (not the training graph: batch norm must use its statistics).
        skips: those whose branches are deleted, one at a time.
        batches: pairs (inputs, target), read twice unless `exact` is 0.
        loss: (output, target) -> mean over the batch, or the name of one ("cross-entropy").
        probe: (output, target, generator) -> Σ z·v, for a loss other than torch's cross_entropy, mse_loss or
            binary_cross_entropy_with_logits; see `skiplab.measure.ggn_probe`.
        exact: how many estimates are compared with exact lesions.

    Returns:
        One row a skip: id, order, samples, loss_change, first_order, curvature.
    """
    skips.check(program).require_merges()
    require_trained(program)
    _check(batches, exact)
    function = named_loss(loss)
    project = probe or (function.probe if isinstance(function, NamedLoss) else probe_of(function))
    edges = [tuple(dict.fromkeys(branch_edges(program, skip))) for skip in skips]
    terms, samples = Moments(), 0

    @torch.enable_grad()
    def work(given: BoundBatch) -> Tensor:
        gates = Gates(program, given, {edge for of_skip in edges for edge in of_skip})
        value = batch_loss(program, given, function, gates.output)
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
        measure: Callable[[Skips], pd.DataFrame] = lambda some: lesion(program, some, batches, function)  # noqa: E731
        table.attrs = _agreement(measure, skips, table["loss_change"], exact)
    return MeasureTable.of(__name__, table)


def _check(batches: Iterable[Batch], exact: int) -> None:
    if exact < 0:
        raise UsageError(f"exact={exact}: give the number of skips to lesion, or 0 for none")
    if exact:
        require_reiterable(batches, f"the data is read again for {exact} exact lesions (exact=0 leaves them out)")


def _of_skips(edges: list[tuple[Edge, ...]], found: Mapping[Edge, Tensor]) -> Tensor:
    """(samples, skips): a skip's branches are deleted together, so their slopes are added."""
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
    """Rank correlation with exact lesions of some skips."""
    places = np.linspace(0, len(skips) - 1, min(exact, len(skips))).round().astype(int)
    picked = estimates.to_numpy().argsort()[places]
    some = Skips(skips[int(i)] for i in picked)
    measured = measure(some).set_index("id")["loss_change"][[skip.id for skip in some]]
    correlation = float("nan")
    if len(some) > 2:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantInputWarning)  # constant values have no order: NaN
            correlation = float(spearmanr(estimates.iloc[picked], measured).statistic)  # type: ignore[attr-defined]
    return {"spearman": correlation, "checked": len(some)}


def sentences(table: pd.DataFrame) -> Iterator[str]:
    """The median and the largest estimate, and how well they agree with exact lesions."""
    known = finite_in(table, "loss_change")
    if known.empty:
        return
    most = farthest(known, "loss_change")
    yield (
        f"Deleting a branch is estimated to change the loss by {known['loss_change'].median():+.3g} in the median of "
        f"{counted(known, 'skip')}, most at `{most['id']}`: {most['loss_change']:+.3g}. These are estimates, "
        f"without an interval{_agreement_in_words(table.attrs)}."
    )


def _agreement_in_words(attrs: Mapping[Any, Any]) -> str:
    rank = attrs.get("spearman")
    if rank is None or math.isnan(rank):
        return ""
    return f"; on {attrs.get('checked')} skips that were also deleted, the two rank alike by {rank:.2f} (Spearman)"


MEASURE = Measure(
    function=estimate,
    run=lambda inputs: estimate(inputs.program, inputs.skips, inputs.batches, inputs.loss),
    sentences=sentences,
    columns=(
        SKIP_ID,
        ORDER,
        SAMPLES,
        Column("loss change", "loss_change", doc="estimated change, first_order + curvature", unit="that of the loss"),
        Column("first order", "first_order", doc="part from the gradient", unit="that of the loss"),
        Column("curvature", "curvature", doc="Gauss–Newton part", unit="that of the loss"),
    ),
    title="Lesions, estimated",
    reading="Estimated rise of the loss, from one forward and backward pass in place of a run for each lesion.",
    chart="estimate",
    needs_targets=True,
    needs_inference_graph=True,
)
