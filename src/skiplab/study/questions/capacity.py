"""Does a skip connection let a network use only as much of itself as it needs?

`plain` has no skip connections; `post-activation` (ResNet v1) and `pre-activation` (ResNet v2) have them. All have the
same layers and the same initial weights for each seed. Each is trained at several depths and on several numbers of
samples, with equally many samples of every class; a smaller set is part of the larger ones. Smaller sets are repeated
to the size of the whole training part, so that every network takes the same number of steps with the same batch size
and learning rates.

A network that uses no more of itself than it needs would show three things. With few samples, where capacity is of no
use, a deeper one is no worse. Some blocks can be deleted without harm (`dispensable`), and the fewer samples there are,
the more of them. Some blocks are near the identity: their branch adds little. A block is called

- dispensable, if deleting it in the trained network raises the test error by less than one point, about the effect of
  another seed on these data (standard deviation of the test error). In `plain` a single layer is deleted, as Veit et
  al. did in VGG. A network with a high error is also more sensitive to deletions, so compare the share of dispensable
  blocks at equal errors;
- near the identity, if its branch is less than a tenth as large as the shortcut: the sum then turns by less than 6°
  (arcsin 0.1), and gains less than 1 % energy if the two are orthogonal.

Hypotheses: if the identity were optimal, a residual block could easily push its branch to zero, and plain layers could
not as easily become one (He et al. 2016, arXiv:1512.03385, §3.1); deleting a block of a trained ResNet has little
effect, deleting a layer of VGG destroys it (Veit et al. 2016, arXiv:1605.06431, §4.1); blocks refine a signal step by
step (Greff et al. 2017, arXiv:1612.07771, §3); a network is better if whole blocks are left out at random during
training, the last ones in half of all steps (Huang et al. 2016, arXiv:1603.09382, §4).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from skiplab import measure
from skiplab.analysis.finder import find
from skiplab.data import DataSet, Split, batches, digits
from skiplab.errors import UsageError
from skiplab.graph.capture import capture
from skiplab.report.figure_spec import TEST_ERROR, TRAIN_ERROR, Axis, Figure, lines
from skiplab.stats.intervals import paired, paired_ratio, student
from skiplab.study import networks
from skiplab.study.by_seed import values_by_seed
from skiplab.study.charts import CURVES, numbers
from skiplab.study.claims import Claim, agreement
from skiplab.study.networks import PLAIN, RECIPE, RESIDUAL, VARIANTS, digit_network, estimated_cost
from skiplab.study.question import Grid, Settings, Study, Tables, network_name
from skiplab.study.run_cell import SAMPLES, RunContext, capture_and_find, error_rate, train_network
from skiplab.study.sentences import compare_shares, format_difference, format_headline, format_percent, format_ratio

ALL_SAMPLES = 1437  # samples of the training part
DISPENSABLE, NEAR_IDENTITY = 0.01, 0.1  # rise of the test error, and size of branch / shortcut: see above
GRIDS = {
    "quick": Grid(axes={"depth": (8, 32), "samples": (50, ALL_SAMPLES)}, recipe=replace(RECIPE, epochs=6)),
    "default": Grid(axes={"depth": (8, 32), "samples": (50, 200, ALL_SAMPLES)}, recipe=RECIPE),
    "full": Grid(axes={"depth": (8, 20, 56), "samples": (50, 200, ALL_SAMPLES)}, seeds=5, recipe=RECIPE),
}


def work(run: RunContext) -> Tables:
    """Train and measure the network of one variant, depth, number of samples and seed."""
    model = digit_network(run.settings, **VARIANTS[run.settings["variant"]])
    data = training_subset(digits(), run.settings["samples"], run.settings["seed"])
    tables, network = train_network(model, data, run)
    tables["runs"]["gap"] = tables["runs"]["test_error"] - tables["runs"]["train_error"]
    if network is not None:
        run.report(0.9, "measuring")
        tables |= measure_blocks(model, network, data)
    return tables


def training_subset(data: DataSet, samples: int, seed: int) -> DataSet:
    """A subset of the training part, balanced between classes and repeated to the size of the whole part.

    The subset of a seed for fewer samples is part of its subset for more.
    """
    shuffled = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    nth_of_class = pd.Series(data.train.y[shuffled].numpy()).groupby(data.train.y[shuffled].numpy()).cumcount()
    order = shuffled[torch.tensor(nth_of_class.to_numpy()).argsort(stable=True)]
    chosen = order[torch.arange(len(data.train)) % samples]
    return DataSet(data.name, Split(data.train.x[chosen], data.train.y[chosen]), data.test, data.classes)


def measure_blocks(before: nn.Module, after: nn.Module, data: DataSet) -> Tables:
    """Table parts: one row for each block (in a plain network: layer) that can be deleted, measured on the test part.

    Columns id, order, part (1, 2, …), loss_change, error_change; for a block also ratio, and ratio_initial: the same
    before training, with the batch statistics of batch norm.
    """
    program, skips = capture_and_find(after, data)
    test = list(batches(data.test, SAMPLES))
    if not skips:
        deleted = measure.layers(program, test, F.cross_entropy, error_rate)
        sizes = deleted[["id"]].assign(ratio=float("nan"), ratio_initial=float("nan"))
    else:
        deleted = measure.lesion(program, skips, test, F.cross_entropy, error_rate)
        start = capture(before, (test[0][0],), train=True)
        initial = measure.contribution(start, find(start), test)[["id", "ratio"]]
        sizes = measure.contribution(program, skips, test)[["id", "ratio"]]
        sizes = sizes.merge(initial, on="id", suffixes=("", "_initial"))
    deleted = deleted.rename(columns={"metric_change": "error_change"})
    parts = deleted[["id", "order", "loss_change", "error_change"]].merge(sizes, on="id")
    return {"parts": parts.assign(part=range(1, len(parts) + 1))}


def postprocess(tables: Tables) -> Tables:
    """Add to `runs` what its parts give: dispensable and near-identity shares, needed parts, sizes of branches.

    Computed after all runs, so that other thresholds need no training.
    """
    curves = tables["curves"].assign(network=_panel_name(tables["curves"])) if "curves" in tables else None
    tables = tables if curves is None else {**tables, "curves": curves}
    runs, parts = tables["runs"], tables.get("parts")
    if parts is None:
        return tables
    by = ["variant", "depth", "samples", "seed"]
    parts = parts.assign(
        dispensable=parts["error_change"] < DISPENSABLE,
        needed=parts["error_change"] >= DISPENSABLE,
        network=_panel_name(parts),
        near_identity=(parts["ratio"] < NEAR_IDENTITY).where(parts["ratio"].notna()).astype(float),
        near_initially=(parts["ratio_initial"] < NEAR_IDENTITY).where(parts["ratio_initial"].notna()).astype(float),
    )
    columns = {
        "dispensable": "mean",
        "needed": "sum",
        "near_identity": "mean",
        "near_initially": "mean",
        "ratio": "mean",
        "ratio_initial": "mean",
    }
    found = parts.groupby(by)[list(columns)].agg(columns).reset_index()
    found = found.assign(needed=found["needed"].astype(float), grown=found["ratio"] / found["ratio_initial"])
    return {**tables, "parts": parts, "runs": runs.merge(found, on=by, how="left")}


def _panel_name(table: pd.DataFrame) -> pd.Series:
    """The title of a chart's panel."""
    return table["depth"].astype(str) + " layers, " + table["samples"].astype(str) + " samples"


def is_valid(settings: Settings) -> bool:
    """Whether the depth exists; raises `UsageError` for a number of samples out of range."""
    if not 10 <= settings["samples"] <= ALL_SAMPLES:
        raise UsageError(
            f"samples {settings['samples']}: choose 10 (one per class) to {ALL_SAMPLES} (the whole training part)"
        )
    return networks.is_valid(settings)


def sentences(tables: Tables) -> Iterator[str]:
    """The share of the network in use, and how it and the error depend on depth and samples."""
    runs = tables["runs"]
    depths, samples, variants = (list(dict.fromkeys(runs[name])) for name in ("depth", "samples", "variant"))
    deep, shallow, few, many = max(depths), min(depths), min(samples), max(samples)
    for variant in sorted(variants, key=PLAIN.__eq__):  # the question is about networks with skip connections
        yield _use_sentence(runs, variant, deep, many)
    if shallow < deep:
        for variant in variants:
            yield _depth_sentence(runs, variant, (deep, shallow), few)
        for variant in variants:
            yield _needed_sentence(runs, variant, (deep, shallow), many)
    if few < many:
        for variant in variants:
            yield _samples_sentence(runs, variant, deep, (few, many))
    for variant in variants:
        yield from _identity_sentences(runs, variant, deep, (few, many))
    for other in variants[1:] if variants[0] == PLAIN else ():
        keys = [_network_key(name, deep, few) for name in (PLAIN, other)]
        yield compare_shares(runs, keys[0], keys[1], "gap", "gap of test to training error")


def _use_sentence(runs: pd.DataFrame, variant: str, depth: int, samples: int) -> str:
    network = _network_key(variant, depth, samples)
    dispensable, near = (student(values_by_seed(runs, column, network)) for column in ("dispensable", "near_identity"))
    part = "layers" if variant == PLAIN else "blocks"
    if not dispensable.count:
        return f"{network_name(network)}: unknown which {part} are dispensable, since no run finished."
    answer = "part of the network is dispensable" if dispensable.excludes(0) else "all of the network may be needed"
    identity = f"; {format_percent(near)} are near the identity" if near.count else ""
    return (
        f"{network_name(network)}: {answer}. {format_percent(dispensable)} of {part} can be deleted, one at a time, "
        f"for less than {100 * DISPENSABLE:g} point of test error{identity}."
    )


def _depth_sentence(runs: pd.DataFrame, variant: str, depths: tuple[int, int], samples: int) -> str:
    deep, shallow = (values_by_seed(runs, "test_error", _network_key(variant, depth, samples)) for depth in depths)
    which = f"{variant}, {samples} samples, {depths[0]} layers against {depths[1]}"
    return format_headline(
        paired(deep, shallow),
        f"{which}: more depth increases the test error",
        f"{which}: more depth decreases the test error",
        f"{which}: no clear effect of depth on the test error",
    )


def _needed_sentence(runs: pd.DataFrame, variant: str, depths: tuple[int, int], samples: int) -> str:
    deep, shallow = (values_by_seed(runs, "needed", _network_key(variant, depth, samples)) for depth in depths)
    found, part = paired(deep, shallow), "layers" if variant == PLAIN else "blocks"
    numbers = f"{_format_mean(deep)} {part} at {depths[0]} layers, {_format_mean(shallow)} at {depths[1]}"
    if not found.known:
        return f"{variant}, {samples} samples, needed: {numbers}; no interval from fewer than two seeds."
    interval = (
        f"{found.mean:+.1f} (95 % interval {found.low:+.1f} to {found.high:+.1f}, paired over {found.count} seeds)"
    )
    answer = "no clear difference in the number of needed parts"
    if found.excludes(0):
        answer = f"the deeper network needs {'more' if found.mean > 0 else 'fewer'} of its {part}"
    return f"{variant}, {samples} samples: {answer}, {numbers}; {interval}."


def _samples_sentence(runs: pd.DataFrame, variant: str, depth: int, samples: tuple[int, int]) -> str:
    few, many = (values_by_seed(runs, "dispensable", _network_key(variant, depth, n)) for n in samples)
    part = "layers" if variant == PLAIN else "blocks"
    numbers = (
        f"{variant}, {depth} layers: {format_percent(student(few))} of {part} are dispensable with {samples[0]} "
        f"samples, {format_percent(student(many))} with {samples[1]}"
    )
    return format_headline(
        paired(few, many),
        f"With fewer samples a larger share is dispensable. {numbers}",
        f"With fewer samples a smaller share is dispensable. {numbers}",
        f"No clear effect of the number of samples on the dispensable share. {numbers}",
    )


def _identity_sentences(runs: pd.DataFrame, variant: str, depth: int, samples: tuple[int, int]) -> Iterator[str]:
    for n in dict.fromkeys(samples):
        network = _network_key(variant, depth, n)
        near, after, before = (
            values_by_seed(runs, column, network) for column in ("near_identity", "ratio", "ratio_initial")
        )
        if after.notna().any():
            yield (
                f"{network_name(network)}: {format_percent(student(near))} of blocks are near the identity (branch "
                f"below {NEAR_IDENTITY:g} of the shortcut). After training a branch is {_format_mean(after, 2)} "
                f"times as large as the shortcut on average, {format_ratio(paired_ratio(after, before))} before "
                "training."
            )


def _format_mean(values: pd.Series, digits: int = 1) -> str:
    found = student(values)
    return f"{found.mean:.{digits}f}" + (f" ± {found.half:.{digits}f}" if found.known else "")


def _network_key(variant: str, depth: int, samples: int) -> dict[str, Any]:
    return {"variant": variant, "depth": depth, "samples": samples}


def claims(tables: Tables) -> Iterator[Claim]:
    """Claims about deletions and branch sizes, for the deepest networks and the most samples."""
    runs = tables["runs"]
    variants, many = set(runs["variant"]), int(runs["samples"].max())
    deep, shallow = int(runs["depth"].max()), int(runs["depth"].min())
    for variant in [name for name in RESIDUAL if name in variants]:
        if PLAIN in variants:
            shares = [values_by_seed(runs, "dispensable", _network_key(name, deep, many)) for name in (variant, PLAIN)]
            found = paired(*shares)
            yield Claim(
                claim="Deleting a block of a ResNet hardly changes its error, deleting a layer of VGG brings it to "
                "chance.",
                source="Veit et al. 2016, arXiv:1605.06431, §4.1 and Fig. 3",
                found=f"dispensable share, blocks of {variant} minus layers of {PLAIN}, {deep} layers: "
                f"{format_difference(found)}",
                agrees=agreement(found, "above"),
            )
        if shallow < deep:
            sizes = [values_by_seed(runs, "ratio", _network_key(variant, depth, many)) for depth in (deep, shallow)]
            found = paired_ratio(*sizes)
            yield Claim(
                claim="The deeper a ResNet, the less each of its layers changes the signal.",
                source="He et al. 2016, arXiv:1512.03385, §4.2 and Fig. 7",
                found=f"branch relative to shortcut, mean over blocks of {variant} at {deep} layers, is "
                f"{format_ratio(found)} at {shallow}",
                agrees=agreement(found, "below", 1.0),
            )
        near, before = (
            values_by_seed(runs, f"near_{when}", _network_key(variant, deep, many))
            for when in ("identity", "initially")
        )
        pushed = paired(near, before)
        yield Claim(
            claim="If the identity were optimal, it would be easy to push the branch of a residual block to zero.",
            source="He et al. 2016, arXiv:1512.03385, §3.1",
            found=f"{format_percent(student(near))} of blocks of {variant} at {deep} layers end near the identity; "
            f"compared with before training, {format_difference(pushed)} Whether the identity is optimal here is "
            "unknown",
            agrees="yes" if pushed.excludes(0) and pushed.mean > 0 else "not shown",
        )


TRAINING_SAMPLES, BLOCK = Axis("samples", "training samples", "log"), Axis("part", "block, from the input")
GAP, RATIO = Axis("gap", "gap of test to training error", "change"), Axis("ratio", "branch / shortcut, trained", "log")
IN_USE = (Axis("dispensable", "share dispensable", "share"), Axis("needed", "number needed"))
FIGURES = (
    Figure(
        name="error-by-samples",
        heading="Error by number of samples",
        how="Thin lines are seeds, the thick line is their mean with its 95 % interval (Student's t). All networks "
        "take the same number of steps.",
        **lines("runs", TRAINING_SAMPLES, TRAIN_ERROR, TEST_ERROR, GAP, panel="depth"),
    ),
    Figure(
        name="in-use",
        heading="How much of the network is in use",
        how="Dispensable: deleting the block (in `plain` the layer) raises the test error by less than "
        f"{100 * DISPENSABLE:g} point. Needed: the number of other blocks.",
        **lines("runs", TRAINING_SAMPLES, *IN_USE, panel="depth"),
    ),
    Figure(
        name="branch-by-block",
        heading="Size of each branch",
        how=f"Relative to the shortcut. A block below {NEAR_IDENTITY:g} is near the identity.",
        **lines("parts", BLOCK, RATIO, panel="network"),
    ),
    replace(CURVES, panel="network"),
    numbers("parts-numbers", "Every block in numbers", "parts"),
)

STUDY = Study.from_module(__name__, postprocess=postprocess, is_valid=is_valid, estimated_cost=estimated_cost)
