"""Does a skip connection let a network use only as much of itself as it needs?

`plain` has no skip connections, `post-activation` (ResNet v1) and `pre-activation` (ResNet v2) do; same layers and
initial weights for each seed. Each is trained at several depths, on more or fewer samples: of every class equally
many, and the fewer are part of the more. Fewer samples are repeated until they are as many as the whole training
part, so that every network takes the same number of steps, of the same batch size, at the same learning rates.

What would show that a network uses no more than it needs: a deeper one is no worse with few samples, where its
capacity is of no use; blocks that could be deleted without harm (`dispensable`), the more of them the less there is
to learn; and blocks near the identity, whose branch adds little. A block is called

- dispensable, when deleting it in the trained network raises the test error by less than one point: about what
  another seed changes on these data (standard deviation of the test error). In `plain` a single layer is deleted, as
  Veit et al. did in VGG. A network that errs more often is also more easily upset, so a share of dispensable blocks
  has to be read beside the error;
- near the identity, when its branch is less than a tenth as large as the signal that it is added to: it then turns
  that signal by less than 6° (arcsin 0.1), and adds less than 1 % to its energy if the two are orthogonal.

Hypotheses: if the identity were optimal, a residual block could easily push its branch to zero, and plain layers could
not as easily become one (He et al. 2016, arXiv:1512.03385, §3.1); deleting a block of a trained ResNet does little,
deleting a layer of VGG all there is (Veit et al. 2016, arXiv:1605.06431, §4.1); blocks refine a signal step by step
(Greff et al. 2017, arXiv:1612.07771, §3); whole blocks can be left out at random in training, the last of them in half
of all steps, and the network is better for it (Huang et al. 2016, arXiv:1603.09382, §4).
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
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
from skiplab.report.figure_spec import TEST_ERROR, TRAIN_ERROR, Axis, Figure
from skiplab.stats.intervals import paired, paired_ratio, student
from skiplab.study import networks
from skiplab.study.charts import CURVES
from skiplab.study.claims import Claim, agreement
from skiplab.study.grid import Report
from skiplab.study.networks import PLAIN, RESIDUAL, VARIANTS, digit_network, estimated_cost
from skiplab.study.question import Grid, Settings, Study, Tables, network_name
from skiplab.study.run_cell import SAMPLES, RunContext, capture_and_find, error_rate, save_tables, train_network
from skiplab.study.sentences import (
    compare_shares,
    format_difference,
    format_headline,
    format_percent,
    format_ratio,
    values_by_seed,
)
from skiplab.training.fit import Recipe

ALL_SAMPLES = 1437  # samples of the training part
DISPENSABLE, NEAR_IDENTITY = 0.01, 0.1  # rise in test error, and size of a branch beside its signal: see above
RECIPE = Recipe(epochs=10, batch_size=128, learning_rate=0.1)
GRIDS = {
    "quick": Grid(axes={"depth": (8, 32), "samples": (50, ALL_SAMPLES)}, recipe=replace(RECIPE, epochs=6)),
    "default": Grid(axes={"depth": (8, 32), "samples": (50, 200, ALL_SAMPLES)}, recipe=RECIPE),
    "full": Grid(axes={"depth": (8, 20, 56), "samples": (50, 200, ALL_SAMPLES)}, seeds=5, recipe=RECIPE),
}


def work(settings: Settings, folder: Path, report: Report) -> None:
    """A network of one variant and depth, trained on so many samples."""
    model = digit_network(settings, **VARIANTS[settings["variant"]])
    data = training_subset(digits(), settings["samples"], settings["seed"])
    tables, network = train_network(model, data, RunContext(settings, folder, report))
    tables["runs"]["gap"] = tables["runs"]["test_error"] - tables["runs"]["train_error"]
    if network is not None:
        report(0.9, "measuring")
        tables |= measure_blocks(model, network, data)
    save_tables(tables, folder)


def training_subset(data: DataSet, samples: int, seed: int) -> DataSet:
    """So many training samples, repeated to as many as there were; of every class as equally many as can be.

    What a seed draws for fewer samples is part of what it draws for more.
    """
    shuffled = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    nth_of_class = pd.Series(data.train.y[shuffled].numpy()).groupby(data.train.y[shuffled].numpy()).cumcount()
    order = shuffled[torch.tensor(nth_of_class.to_numpy()).argsort(stable=True)]
    chosen = order[torch.arange(len(data.train)) % samples]
    return DataSet(data.name, Split(data.train.x[chosen], data.train.y[chosen]), data.test, data.classes)


def measure_blocks(before: nn.Module, after: nn.Module, data: DataSet) -> Tables:
    """Table parts: a row for each block (of a plain network: layer) that can be deleted, on the test part.

    Columns id, order, part (1, 2, …), loss_change, error_change, and for a block ratio, and ratio_initial: the same
    before training, with batch norms normalizing by the batch.
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
    """`runs` with what its parts say: shares dispensable and near the identity, number needed, sizes of branches.

    Afterwards and not in each run, so that other thresholds need no other training.
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
    """What a panel of a chart is called."""
    return table["depth"].astype(str) + " layers, " + table["samples"].astype(str) + " samples"


def is_valid(settings: Settings) -> bool:
    if not 10 <= settings["samples"] <= ALL_SAMPLES:
        raise UsageError(
            f"samples {settings['samples']}: give a number from 10, one a class, to {ALL_SAMPLES}, all there are"
        )
    return networks.is_valid(settings)


def sentences(tables: Tables) -> Iterator[str]:
    """First how much of the network is in use, then how that and the error depend on depth and samples."""
    runs = tables["runs"]
    depths, samples, variants = (list(dict.fromkeys(runs[name])) for name in ("depth", "samples", "variant"))
    deep, shallow, few, many = max(depths), min(depths), min(samples), max(samples)
    for variant in sorted(variants, key=PLAIN.__eq__):  # the question is about the others
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
        yield compare_shares(
            runs, _network_key(PLAIN, deep, few), _network_key(other, deep, few), "gap", "gap of test to training error"
        )


def _use_sentence(runs: pd.DataFrame, variant: str, depth: int, samples: int) -> str:
    place = _network_key(variant, depth, samples)
    idle, near = (student(values_by_seed(runs, column, place)) for column in ("dispensable", "near_identity"))
    part = "layers" if variant == PLAIN else "blocks"
    if not idle.count:
        return f"{network_name(place)}: no run finished, so nothing is known of how much of it is needed."
    answer = f"a part of the network is not needed: {format_percent(idle)}"
    if not idle.excludes(0):
        answer = f"all of the network may be needed: {format_percent(idle)}"
    identity = f", and {format_percent(near)} are near the identity" if near.count else ""
    return (
        f"{network_name(place)}: {answer} of {part} can be deleted, one at a time, for less than "
        f"{100 * DISPENSABLE:g} point of test error{identity}."
    )


def _depth_sentence(runs: pd.DataFrame, variant: str, depths: tuple[int, int], samples: int) -> str:
    deep, shallow = (values_by_seed(runs, "test_error", _network_key(variant, depth, samples)) for depth in depths)
    which = f"{variant}, {samples} samples, {depths[0]} layers against {depths[1]}"
    return format_headline(
        paired(deep, shallow),
        f"{which}: more depth does harm to the test error",
        f"{which}: more depth helps the test error",
        f"{which}: more depth is not shown to change the test error",
    )


def _needed_sentence(runs: pd.DataFrame, variant: str, depths: tuple[int, int], samples: int) -> str:
    deep, shallow = (values_by_seed(runs, "needed", _network_key(variant, depth, samples)) for depth in depths)
    found, part = paired(deep, shallow), "layers" if variant == PLAIN else "blocks"
    text = (
        f"{variant}, {samples} samples: {_format_mean(deep)} {part} are needed at {depths[0]} layers, "
        f"{_format_mean(shallow)} at {depths[1]}"
    )
    if not found.known:
        return f"{text}; a single seed or none gives no interval."
    told = f"{found.mean:+.1f} (95 % interval {found.low:+.1f} to {found.high:+.1f}, paired over {found.count} seeds)"
    if not found.excludes(0):
        return f"{text}: not shown to differ, {told}, includes zero."
    return (
        f"{text}: {'a deeper network uses more of itself' if found.mean > 0 else 'a deeper one needs fewer'}, {told}."
    )


def _samples_sentence(runs: pd.DataFrame, variant: str, depth: int, samples: tuple[int, int]) -> str:
    few, many = (values_by_seed(runs, "dispensable", _network_key(variant, depth, n)) for n in samples)
    part = "layers" if variant == PLAIN else "blocks"
    which = (
        f"{variant}, {depth} layers: {format_percent(student(few))} of {part} are dispensable with {samples[0]} "
        f"samples, {format_percent(student(many))} with {samples[1]}"
    )
    return format_headline(
        paired(few, many),
        f"With fewer samples a larger share can be deleted without harm. {which}",
        f"With fewer samples a smaller share can be deleted without harm. {which}",
        f"That it depends on the number of samples how much can be deleted without harm is not shown. {which}",
    )


def _identity_sentences(runs: pd.DataFrame, variant: str, depth: int, samples: tuple[int, int]) -> Iterator[str]:
    for n in dict.fromkeys(samples):
        place = _network_key(variant, depth, n)
        near, after, before = (
            values_by_seed(runs, column, place) for column in ("near_identity", "ratio", "ratio_initial")
        )
        if after.notna().any():
            yield (
                f"{network_name(place)}: {format_percent(student(near))} of blocks are near the identity (branch "
                f"below {NEAR_IDENTITY:g} of its signal); after training a branch is {_format_mean(after, 2)} times "
                f"its signal on average, {format_ratio(paired_ratio(after, before))} before training."
            )


def _format_mean(values: pd.Series, digits: int = 1) -> str:
    found = student(values)
    return f"{found.mean:.{digits}f}" + (f" ± {found.half:.{digits}f}" if found.known else "")


def _network_key(variant: str, depth: int, samples: int) -> dict[str, Any]:
    return {"variant": variant, "depth": depth, "samples": samples}


def claims(tables: Tables) -> Iterator[Claim]:
    runs = tables["runs"]
    variants, many = set(runs["variant"]), int(runs["samples"].max())
    deep, shallow = int(runs["depth"].max()), int(runs["depth"].min())
    for variant in [name for name in RESIDUAL if name in variants]:
        if PLAIN in variants:
            harm = [values_by_seed(runs, "dispensable", _network_key(name, deep, many)) for name in (variant, PLAIN)]
            found = paired(*harm)
            yield Claim(
                claim="Deleting a block of a ResNet hardly changes its error, deleting a layer of VGG brings it to "
                "chance.",
                source="Veit et al. 2016, arXiv:1605.06431, §4.1 and Fig. 3",
                found=f"share dispensable, blocks of {variant} against layers of {PLAIN}, {deep} layers: "
                f"{format_difference(found)}",
                agrees=agreement(found, "above"),
            )
        if shallow < deep:
            sizes = [values_by_seed(runs, "ratio", _network_key(variant, depth, many)) for depth in (deep, shallow)]
            found = paired_ratio(*sizes)
            yield Claim(
                claim="The deeper a ResNet, the less each of its layers changes the signal.",
                source="He et al. 2016, arXiv:1512.03385, §4.2 and Fig. 7",
                found=f"a branch beside its signal, mean over blocks of {variant} at {deep} layers, is "
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
            found=f"{format_percent(student(near))} of blocks of {variant} at {deep} layers end near the identity, "
            f"against before training {format_difference(pushed)} Whether it would be optimal here is not known",
            agrees="yes" if pushed.excludes(0) and pushed.mean > 0 else "not shown",
        )


FIGURES = (
    Figure(
        name="error-by-samples",
        heading="Error by number of samples",
        how="A thin line a seed, the thick one their mean with its 95 % interval (Student's t). All take equally many "
        "steps.",
        chart="lines",
        table="runs",
        x=Axis("samples", "training samples", "log"),
        y=(TRAIN_ERROR, TEST_ERROR, Axis("gap", "gap of test to training error", "change")),
        panel="depth",
    ),
    Figure(
        name="in-use",
        heading="How much of the network is in use",
        how="Dispensable: deleting the block (in `plain` the layer) raises the test error by less than "
        f"{100 * DISPENSABLE:g} point. Needed: the number of the others.",
        chart="lines",
        table="runs",
        x=Axis("samples", "training samples", "log"),
        y=(Axis("dispensable", "share dispensable", "share"), Axis("needed", "number needed")),
        panel="depth",
    ),
    Figure(
        name="branch-by-block",
        heading="Size of each branch",
        how=f"Beside the signal that it is added to. Near the identity is what lies below {NEAR_IDENTITY:g}.",
        chart="lines",
        table="parts",
        x=Axis("part", "block, from the input"),
        y=(Axis("ratio", "branch / signal, trained", "log"),),
        panel="network",
    ),
    replace(CURVES, panel="network"),
    Figure(
        name="parts-numbers",
        heading="Every block in numbers",
        how="One row a seed.",
        chart="table",
        table="parts",
        folded=True,
    ),
)

STUDY = Study(
    name="capacity",
    variants=tuple(VARIANTS),
    grids=GRIDS,
    work=work,
    sentences=sentences,
    figures=FIGURES,
    claims=claims,
    postprocess=postprocess,
    is_valid=is_valid,
    estimated_cost=estimated_cost,
    text=__doc__,
)
