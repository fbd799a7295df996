"""What the trained network loses when skip connections are deleted or changed, without retraining."""

from collections.abc import Iterable, Sequence
from typing import Any, Unpack, get_args

import pandas as pd

from skiplab.analysis.skips import Skip, Skips
from skiplab.data.bound_batches import Batch
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.measure.batches import Loss
from skiplab.measure.lesions import replacements
from skiplab.measure.lesions.reorder import reorderings
from skiplab.measure.lesions.replacements import Kind, Replacement
from skiplab.measure.lesions.resumable_pass import Passes, Running
from skiplab.measure.lesions.runner import compared, names_of, plan, require_trained
from skiplab.measure.lesions.spec import Groups, deletions, edges_of, grouped
from skiplab.validation import checked

MOMENTS = "moments"
LIKE_IT = ("mean", "noise")  # kinds of replacement for which the moments of what is replaced must be known


class Options(Running, total=False):
    """Keyword options of `lesion`; those of how it is run are in `Running`."""

    kinds: Sequence[Kind]
    """What happens to a skip, one row each: its branch ("branch", the default) or its shortcut ("shortcut") is replaced
    by zeros as it enters the merge; or the branch by its mean over samples ("mean"), by normal noise of the same mean
    and variance in each channel ("noise"), or by another sample's branch, of the same batch ("shuffle"); or the same
    is done to its shortcut ("shortcut-mean", "shortcut-noise", "shortcut-shuffle")."""
    groups: Groups
    """How many consecutive skips are changed together, "pairs" for every two, or lists of ids: 1, each alone."""
    reorder: int
    """Up to how many random pairs of blocks of the same form are swapped, in rows of their own: 0."""
    draws: int
    """How many random reorderings there are of each number of swaps, those drawn twice once: 5."""


def lesion(
    program: Program,
    skips: Skips,
    batches: Iterable[Batch],
    loss: Loss,
    metric: Loss | None = None,
    **options: Unpack[Options],
) -> pd.DataFrame:
    """Change in loss when skip connections lose their branches (or shortcuts), one at a time or several together.

    Exact: each lesioned network is run on all the data. What precedes a lesion is computed once and shared, which
    halves the work and is bit-identical to running each network from the start; one state of the whole network is
    kept at a time. Veit et al. 2016, arXiv:1605.06431, §4.1 (one), §4.2 (several), §4.3 (reordering).

    Args:
        program: the captured, trained network (not the training graph: batch norm must use its statistics).
        skips: those to change.
        batches: pairs (inputs, target).
        loss: (output, target) -> mean over the batch, or one value a sample.
        metric: a second quantity of the same form, such as the error rate.
        options: see `Options` and `Running`.

    Returns:
        One row a kind and group of skips, then one a reordering, and all again with re-estimated batch norms:

        - id: ids of the skips joined by " + "; of swapped blocks "a ↔ b". order: index of the first merge.
        - kind: as in `kinds`, or "reorder". k: number of skips changed together, or of swaps.
        - batchnorm: "as trained", or "re-estimated" (`torch.optim.swa_utils.update_bn` on `batches`) in this network
          and in the whole one that it is compared with.
        - samples; loss of the changed network, and loss_change, minus that of the whole network: means over samples,
          in the loss's unit, with which they scale. A changed network may overflow: its loss is inf or NaN, and
          stays so.
        - loss_change_low, loss_change_high: 95 % percentile bootstrap interval, paired. It resamples the `unit`, which
          is "sample", or "batch" where the loss is no mean over samples (weighted, or contrasting samples). NaN for
          one unit alone and for changes that are not finite.
        - metric, metric_change, metric_change_low, metric_change_high when a metric is given.

    Raises:
        UsageError: for options that make no sense; for "mean", "noise" and `reestimate` with batches that can be read
            only once.
        DataError: where the whole network's loss is not finite; for "shuffle" with a batch of one sample; where
            `folder` holds other lesions.
    """
    skips.check(program).require_merges()
    require_trained(program)
    kinds, groups, seed = _kinds(options), grouped(skips, options.get("groups", 1)), options.get("seed", 0)
    most, draws = options.get("reorder", 0), options.get("draws", 5)
    swaps = reorderings(program, skips, most, draws, seed) if most else []
    functions = [loss] if metric is None else [loss, metric]
    networks = plan(len(kinds) * len(groups) + len(swaps), reestimate=options.get("reestimate", False))
    moments = {MOMENTS: 1} if any(kind.endswith(LIKE_IT) for kind in kinds) else {}
    identity = {
        "skips": [skip.id for skip in skips],
        "kinds": kinds,
        "groups": options.get("groups", 1),
        "reorder": [most, draws],
        "seed": seed,
        "functions": names_of(functions),
    }
    passes = Passes(program, batches, moments | networks, options, identity)
    deleted = deletions(program, groups, _replacements(passes, kinds, skips, seed))
    return compared(passes, [*deleted, *swaps], functions, seed)


def _kinds(options: Options) -> list[Kind]:
    checked(options, Options.__annotations__.keys() | Running.__annotations__.keys(), "a lesion")
    kinds = list(options.get("kinds", ("branch",)))
    if other := [kind for kind in kinds if kind not in get_args(Kind)]:
        raise UsageError(f"kinds: {other[0]!r} is none of {', '.join(get_args(Kind))}; give a list of these")
    return kinds


def _replacements(passes: Passes, kinds: Sequence[Kind], skips: Sequence[Skip], seed: int) -> dict[str, Replacement]:
    program, moments = passes.program, {}
    if MOMENTS in passes.plan:
        ways = [kind for kind in kinds if kind.endswith(LIKE_IT)]
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
