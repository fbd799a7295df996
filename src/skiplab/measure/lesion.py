"""What a trained network loses when skip connections are deleted or changed, without retraining."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, Unpack, get_args

import numpy as np
import pandas as pd

from skiplab.analysis.skips import Skip, Skips
from skiplab.data.bound_batches import Batch, require_reiterable
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.measure.accelerate import faster
from skiplab.measure.batches import Loss
from skiplab.measure.lesions import replacements
from skiplab.measure.lesions.reorder import reorderings
from skiplab.measure.lesions.replacements import Replacement
from skiplab.measure.lesions.resumable_pass import Passes, Running
from skiplab.measure.lesions.runner import compare_networks, function_names, plan_passes, require_trained
from skiplab.measure.lesions.spec import Groups, deletions, edges_of, grouped
from skiplab.measure.losses import named_loss
from skiplab.measure.protocol import ORDER, SAMPLES, SKIP_ID, Measure
from skiplab.measure.table import MeasureTable
from skiplab.stats.columns import Column
from skiplab.stats.wording import counted, ends_of, farthest, sign_counts, within
from skiplab.validation import known_options

Kind = Literal["branch", "shortcut", "mean", "noise", "shuffle", "shortcut-mean", "shortcut-noise", "shortcut-shuffle"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MOMENTS = "moments"
NEEDS_MOMENTS = ("mean", "noise")  # kinds of replacement that need the moments of the replaced value


class Options(Running, total=False):
    """Keyword options of `lesion`, in addition to those of `Running`.

    Attributes:
        kinds: kinds of lesion, one row each. A skip's branch ("branch", the default) or its shortcut ("shortcut") is
            replaced by zeros as it enters the merge; or the branch by its mean over samples ("mean"), by normal noise
            of the same mean and variance in each channel ("noise"), or by the branch of another sample of the batch
            ("shuffle"); or the same happens to its shortcut ("shortcut-mean", "shortcut-noise", "shortcut-shuffle").
        groups: number of consecutive skips that are changed together, "pairs" for every two, or lists of ids
            (default: 1, each alone).
        reorder: largest number of random pairs of blocks of the same form to swap, in rows of their own (default: 0).
        draws: random reorderings for each number of swaps; equal ones count once (default: 5).
        fast: run an equivalent faster form of the network; results differ by rounding, and `attrs["deviation"]` of the
            table holds by how much.
        reestimate: measure each network a second time, with batch norm statistics re-estimated on `batches`.
    """

    kinds: Sequence[Kind]
    groups: Groups
    reorder: int
    draws: int
    fast: bool
    reestimate: bool


def lesion(
    program: Program,
    skips: Skips,
    batches: Iterable[Batch],
    loss: Loss | str,
    metric: Loss | None = None,
    **options: Unpack[Options],
) -> MeasureTable:
    """Change in loss when skip connections lose their branches (or shortcuts), one at a time or several together.

    Exact: each lesioned network runs on all the data. The part before a lesion is computed once and shared, which
    halves the work and is bit-identical to running each network from the start; one state of the whole network is
    kept at a time. Veit et al. 2016, arXiv:1605.06431, §4.1 (one), §4.2 (several), §4.3 (reordering).

    Args:
        program: the captured, trained network (not the training graph: batch norm must use its statistics).
        skips: the skips to change.
        batches: pairs (inputs, target).
        loss: (output, target) -> mean over the batch, or one value a sample; or the name of one ("cross-entropy").
        metric: a second quantity of the same form, such as the error rate.
        options: see `Options` and `Running`.

    Returns:
        One row a kind and group of skips, then one a reordering, and all again with re-estimated batch norms:

        - id: ids of the skips joined by " + "; of swapped blocks "a ↔ b". order: index of the first merge.
        - kind: as in `kinds`, or "reorder". k: number of skips changed together, or of swaps.
        - batchnorm: "as trained", or "re-estimated" (`torch.optim.swa_utils.update_bn` on `batches`) in both this
          network and the whole one that it is compared with.
        - samples; loss of the changed network, and loss_change, its difference to the whole network's: means over
          samples, in the loss's unit. The loss of a changed network that overflows is inf or NaN.
        - loss_change_low, loss_change_high: paired 95 % percentile bootstrap interval. It resamples the `unit`:
          "sample", or "batch" where the loss is no mean over samples (weighted or contrastive). NaN for a single
          unit and for changes that are not finite.
        - metric, metric_change, metric_change_low, metric_change_high when a metric is given.

    Raises:
        UsageError: options that make no sense; "mean", "noise" and `reestimate` with batches that can be read only
            once.
        DataError: the whole network's loss is not finite; "shuffle" with a batch of one sample; `folder` holds other
            lesions.
    """
    skips.check(program).require_merges()
    require_trained(program)
    exact = program
    if options.get("fast"):
        require_reiterable(batches, "its beginning is read again, to compare the faster form with the exact one")
        program = faster(exact)
    kinds, groups, seed = _kinds(options), grouped(skips, options.get("groups", 1)), options.get("seed", 0)
    most, draws = options.get("reorder", 0), options.get("draws", 5)
    swaps = reorderings(program, skips, most, draws, seed) if most else []
    functions = [named_loss(loss), *([] if metric is None else [metric])]
    networks = plan_passes(len(kinds) * len(groups) + len(swaps), reestimate=options.get("reestimate", False))
    moments = {MOMENTS: 1} if any(kind.endswith(NEEDS_MOMENTS) for kind in kinds) else {}
    identity = {
        "skips": [skip.id for skip in skips],
        "kinds": kinds,
        "groups": options.get("groups", 1),
        "reorder": [most, draws],
        "seed": seed,
        "functions": function_names(functions),
    }
    passes = Passes(program, batches, moments | networks, options, identity)
    deleted = deletions(program, groups, _replacements(passes, kinds, skips, seed))
    table = compare_networks(passes, [*deleted, *swaps], functions, seed)
    if program is not exact:
        table.attrs["deviation"] = deviation(exact, program, skips, batches, functions[0])
    return MeasureTable.of(__name__, table)


def _kinds(options: Options) -> list[Kind]:
    known_options(options, Options.__annotations__, "a lesion")
    check_options(options)
    return list(options.get("kinds", ("branch",)))


def check_options(options: Mapping[str, Any]) -> None:
    """UsageError for what is wrong with the options of a lesion, whatever the network."""
    if other := [kind for kind in options.get("kinds", ()) if kind not in KINDS]:
        raise UsageError(f"kinds: {other[0]!r} is none of {', '.join(KINDS)}; give a list of these")
    memory = options.get("memory")
    if memory is not None and not memory > 0:
        raise UsageError(f"memory={memory}: give GiB, above 0")
    if options.get("fast") and options.get("reestimate"):
        raise UsageError("the fast form has no batch norms to re-estimate: leave one of them out")


def _replacements(passes: Passes, kinds: Sequence[Kind], skips: Sequence[Skip], seed: int) -> dict[str, Replacement]:
    program, moments = passes.program, {}
    if MOMENTS in passes.plan:
        ways = [kind for kind in kinds if kind.endswith(NEEDS_MOMENTS)]
        edges = (edge for kind in ways for skip in skips for edge in edges_of(program, skip, kind))
        operands = dict.fromkeys(operand for _, operand in edges)
        moments = replacements.branch_moments(passes, MOMENTS, operands)
    of: dict[str, Any] = {
        "branch": replacements.zero,
        "shortcut": replacements.zero,
        "mean": replacements.mean(moments),
        "noise": replacements.noise(program, moments, seed),
        "shuffle": replacements.shuffle(program, seed),
    }
    return {kind: of[kind.removeprefix("shortcut-")] for kind in kinds}


def deviation(
    program: Program, fast: Program, skips: Skips, batches: Iterable[Batch], loss: Loss, lesions: int = 3
) -> float:
    """Largest absolute difference of a `loss_change` between the fast program and the exact one, in the loss's unit.

    Over `lesions` skips spread over the network, on the first batch alone. NaN where a lesioned network's loss is not
    finite.
    """
    some = skips[:: max(1, len(skips) // lesions)][:lesions]
    first = list(islice(batches, 1))
    exact, other = (lesion(each, some, first, loss)["loss_change"] for each in (program, fast))
    return float((exact - other).abs().max(skipna=False))


DOING = {
    "branch": "Deleting a branch",
    "shortcut": "Deleting a shortcut",
    "mean": "Replacing a branch by its mean",
    "noise": "Replacing a branch by noise",
    "shuffle": "Giving a branch another sample's values",
    "reorder": "Swapping blocks of the same form",
    "layer": "Deleting a layer",
}


def sentences(table: pd.DataFrame) -> Iterator[str]:
    """For each kind of lesion: the change of loss and metric, the largest, and how many are clear."""
    if table.empty:
        yield "There is no block or layer to delete."
        return
    keys = [key for key in ("kind", "batchnorm") if table[key].nunique() > 1]
    for key, group in table.groupby(keys, sort=False) if keys else [((), table)]:
        which = f" (batch norm {key[keys.index('batchnorm')]})" if "batchnorm" in keys else ""
        yield from _sentences_of(group, which)
    if "deviation" in table.attrs:
        yield f"Computed in the faster form (--fast), which differs from the exact by {table.attrs['deviation']:.2g}."


def _sentences_of(group: pd.DataFrame, which: str) -> Iterator[str]:
    known = group[np.isfinite(group["loss_change"])]
    kind, lost = str(group["kind"].iloc[0]), len(group) - len(known)
    if len(known):
        most = farthest(known, "loss_change")
        yield (
            f"{DOING.get(kind, kind)}{which} changes the loss by {known['loss_change'].median():+.3g} in the "
            f"median of {counted(known, 'lesion')}, most at `{most['id']}`: "
            f"{most['loss_change']:+.3g}{within(ends_of(most, 'loss_change'), '+.3g')}; "
            f"{sign_counts([ends_of(row, 'loss_change') for _, row in known.iterrows()])}."
        )
    if "metric_change" in known and len(known):
        worst = farthest(known, "metric_change")
        yield (
            f"The metric then changes by {known['metric_change'].median():+.3g} in the median, most at "
            f"`{worst['id']}`: {worst['metric_change']:+.3g}{within(ends_of(worst, 'metric_change'), '+.3g')}."
        )
    if lost:
        yield f"In {lost} of {len(group)} lesioned networks{which} the loss is no finite number."


COLUMNS_OF_CHANGE = (
    Column("batch norm", "batchnorm", "text", doc='statistics of batch norm: "as trained" or "re-estimated"'),
    Column("", "unit", "text", doc='what the interval resamples: "sample" or "batch"'),
    SAMPLES,
    Column("", "loss", doc="loss of the changed network", unit="that of the loss"),
    Column(
        "loss change", "loss_change", "interval", doc="loss minus that of the whole network", unit="that of the loss"
    ),
    Column("", "metric", doc="metric of the changed network, if there is one", unit="that of the metric"),
    Column(
        "metric change",
        "metric_change",
        "interval",
        doc="metric minus that of the whole network, if there is one",
        unit="that of the metric",
    ),
)


MEASURE = Measure(
    function=lesion,
    run=lambda inputs: lesion(
        inputs.program, inputs.skips, inputs.batches, inputs.loss, inputs.metric, **inputs.options, **inputs.running
    ),
    sentences=sentences,
    columns=(
        SKIP_ID,
        ORDER,
        Column("deleted", "kind", "text", doc="how the skip is changed"),
        Column("", "k", doc="number of skips changed together, or of swaps"),
        *COLUMNS_OF_CHANGE,
    ),
    title="Lesions",
    reading="By how much the loss rises when a part of the network is deleted, without retraining, with its 95 % "
    "interval; gray where that includes zero. A cross is a loss that is no finite number.",
    chart="lesion",
    options=("kinds", "groups", "reorder", "reestimate", "fast"),
    check=check_options,
    methods={"estimate": "estimate"},
    default=True,
    needs_targets=True,
    needs_inference_graph=True,
    reports_progress=True,
)
