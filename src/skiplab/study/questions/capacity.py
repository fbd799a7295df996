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
from skiplab.study.networks import PLAIN, RESIDUAL, VARIANTS, cost, for_digits
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.run_cell import SAMPLES, Training, found, save, train, wrong
from skiplab.study.sentences import compared, difference, named, of, percent, sided, times
from skiplab.training.fit import Recipe

MOST = 1437  # samples of the training part
NO_HARM, SMALL = 0.01, 0.1  # rise in test error, and size of a branch beside its signal: see above
RECIPE = Recipe(epochs=10, batch_size=128, learning_rate=0.1)
GRIDS = {
    "quick": Grid({"depth": (8, 32), "samples": (50, MOST)}, recipe=replace(RECIPE, epochs=6)),
    "default": Grid({"depth": (8, 32), "samples": (50, 200, MOST)}, recipe=RECIPE),
    "full": Grid({"depth": (8, 20, 56), "samples": (50, 200, MOST)}, seeds=5, recipe=RECIPE),
}


def work(settings: Settings, folder: Path, report: Report) -> None:
    """A network of one variant and depth, trained on so many samples."""
    model = for_digits(settings, **VARIANTS[settings["variant"]])
    data = fewer(digits(), settings["samples"], settings["seed"])
    tables, network = train(model, data, Training(settings, folder, report))
    tables["runs"]["gap"] = tables["runs"]["test_error"] - tables["runs"]["train_error"]
    if network is not None:
        report(0.9, "measuring")
        tables |= measured(model, network, data)
    save(tables, folder)


def fewer(data: DataSet, samples: int, seed: int) -> DataSet:
    """So many training samples, repeated to as many as there were; of every class as equally many as can be.

    What a seed draws for fewer samples is part of what it draws for more.
    """
    shuffled = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    nth_of_class = pd.Series(data.train.y[shuffled].numpy()).groupby(data.train.y[shuffled].numpy()).cumcount()
    order = shuffled[torch.tensor(nth_of_class.to_numpy()).argsort(stable=True)]
    chosen = order[torch.arange(len(data.train)) % samples]
    return DataSet(data.name, Split(data.train.x[chosen], data.train.y[chosen]), data.test, data.classes)


def measured(before: nn.Module, after: nn.Module, data: DataSet) -> Tables:
    """Table parts: a row for each block (of a plain network: layer) that can be deleted, on the test part.

    Columns id, order, part (1, 2, …), loss_change, error_change, and for a block ratio, and ratio_initial: the same
    before training, with batch norms normalising by the batch.
    """
    program, skips = found(after, data)
    test = list(batches(data.test, SAMPLES))
    if not skips:
        deleted = measure.layers(program, test, F.cross_entropy, wrong)
        sizes = deleted[["id"]].assign(ratio=float("nan"), ratio_initial=float("nan"))
    else:
        deleted = measure.lesion(program, skips, test, F.cross_entropy, wrong)
        start = capture(before, (test[0][0],), train=True)
        initial = measure.contribution(start, find(start), test)[["id", "ratio"]]
        sizes = measure.contribution(program, skips, test)[["id", "ratio"]]
        sizes = sizes.merge(initial, on="id", suffixes=("", "_initial"))
    deleted = deleted.rename(columns={"metric_change": "error_change"})
    parts = deleted[["id", "order", "loss_change", "error_change"]].merge(sizes, on="id")
    return {"parts": parts.assign(part=range(1, len(parts) + 1))}


def used(tables: Tables) -> Tables:
    """`runs` with what its parts say: shares dispensable and near the identity, number needed, sizes of branches.

    Afterwards and not in each run, so that other thresholds need no other training.
    """
    curves = tables["curves"].assign(network=_size(tables["curves"])) if "curves" in tables else None
    tables = tables if curves is None else {**tables, "curves": curves}
    runs, parts = tables["runs"], tables.get("parts")
    if parts is None:
        return tables
    by = ["variant", "depth", "samples", "seed"]
    parts = parts.assign(
        dispensable=parts["error_change"] < NO_HARM,
        needed=parts["error_change"] >= NO_HARM,
        network=_size(parts),
        near_identity=(parts["ratio"] < SMALL).where(parts["ratio"].notna()).astype(float),
        near_initially=(parts["ratio_initial"] < SMALL).where(parts["ratio_initial"].notna()).astype(float),
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


def _size(table: pd.DataFrame) -> pd.Series:
    """What a panel of a chart is called."""
    return table["depth"].astype(str) + " layers, " + table["samples"].astype(str) + " samples"


def fits(settings: Settings) -> bool:
    if not 10 <= settings["samples"] <= MOST:
        raise UsageError(f"samples {settings['samples']}: give a number from 10, one a class, to {MOST}, all there are")
    return networks.fits(settings)


def verdicts(tables: Tables) -> Iterator[str]:
    """First how much of the network is in use, then how that and the error depend on depth and samples."""
    runs = tables["runs"]
    depths, samples, variants = (list(dict.fromkeys(runs[name])) for name in ("depth", "samples", "variant"))
    deep, shallow, few, many = max(depths), min(depths), min(samples), max(samples)
    for variant in sorted(variants, key=PLAIN.__eq__):  # the question is about the others
        yield _in_use(runs, variant, deep, many)
    if shallow < deep:
        for variant in variants:
            yield _deeper(runs, variant, (deep, shallow), few)
        for variant in variants:
            yield _more_in_use(runs, variant, (deep, shallow), many)
    if few < many:
        for variant in variants:
            yield _less_to_learn(runs, variant, deep, (few, many))
    for variant in variants:
        yield from _identity(runs, variant, deep, (few, many))
    for other in variants[1:] if variants[0] == PLAIN else ():
        yield compared(
            runs, _network(PLAIN, deep, few), _network(other, deep, few), "gap", "gap of test to training error"
        )


def _in_use(runs: pd.DataFrame, variant: str, depth: int, samples: int) -> str:
    place = _network(variant, depth, samples)
    idle, near = (student(of(runs, column, place)) for column in ("dispensable", "near_identity"))
    part = "layers" if variant == PLAIN else "blocks"
    if not idle.count:
        return f"{named(place)}: no run finished, so nothing is known of how much of it is needed."
    answer = f"a part of the network is not needed: {percent(idle)}"
    if not idle.excludes(0):
        answer = f"all of the network may be needed: {percent(idle)}"
    identity = f", and {percent(near)} are near the identity" if near.count else ""
    return (
        f"{named(place)}: {answer} of {part} can be deleted, one at a time, for less than {100 * NO_HARM:g} point of "
        f"test error{identity}."
    )


def _deeper(runs: pd.DataFrame, variant: str, depths: tuple[int, int], samples: int) -> str:
    deep, shallow = (of(runs, "test_error", _network(variant, depth, samples)) for depth in depths)
    which = f"{variant}, {samples} samples, {depths[0]} layers against {depths[1]}"
    return sided(
        paired(deep, shallow),
        f"{which}: more depth does harm to the test error",
        f"{which}: more depth helps the test error",
        f"{which}: more depth is not shown to change the test error",
    )


def _more_in_use(runs: pd.DataFrame, variant: str, depths: tuple[int, int], samples: int) -> str:
    deep, shallow = (of(runs, "needed", _network(variant, depth, samples)) for depth in depths)
    found, part = paired(deep, shallow), "layers" if variant == PLAIN else "blocks"
    text = (
        f"{variant}, {samples} samples: {_mean(deep)} {part} are needed at {depths[0]} layers, {_mean(shallow)} at "
        f"{depths[1]}"
    )
    if not found.known:
        return f"{text}; a single seed or none gives no interval."
    told = f"{found.mean:+.1f} (95 % interval {found.low:+.1f} to {found.high:+.1f}, paired over {found.count} seeds)"
    if not found.excludes(0):
        return f"{text}: not shown to differ, {told}, includes zero."
    return (
        f"{text}: {'a deeper network uses more of itself' if found.mean > 0 else 'a deeper one needs fewer'}, {told}."
    )


def _less_to_learn(runs: pd.DataFrame, variant: str, depth: int, samples: tuple[int, int]) -> str:
    few, many = (of(runs, "dispensable", _network(variant, depth, n)) for n in samples)
    part = "layers" if variant == PLAIN else "blocks"
    which = (
        f"{variant}, {depth} layers: {percent(student(few))} of {part} are dispensable with {samples[0]} samples, "
        f"{percent(student(many))} with {samples[1]}"
    )
    return sided(
        paired(few, many),
        f"With fewer samples a larger share can be deleted without harm. {which}",
        f"With fewer samples a smaller share can be deleted without harm. {which}",
        f"That it depends on the number of samples how much can be deleted without harm is not shown. {which}",
    )


def _identity(runs: pd.DataFrame, variant: str, depth: int, samples: tuple[int, int]) -> Iterator[str]:
    for n in dict.fromkeys(samples):
        place = _network(variant, depth, n)
        near, after, before = (of(runs, column, place) for column in ("near_identity", "ratio", "ratio_initial"))
        if after.notna().any():
            yield (
                f"{named(place)}: {percent(student(near))} of blocks are near the identity (branch below {SMALL:g} of "
                f"its signal); after training a branch is {_mean(after, 2)} times its signal on average, "
                f"{times(paired_ratio(after, before))} before training."
            )


def _mean(values: pd.Series, digits: int = 1) -> str:
    found = student(values)
    return f"{found.mean:.{digits}f}" + (f" ± {found.half:.{digits}f}" if found.known else "")


def _network(variant: str, depth: int, samples: int) -> dict[str, Any]:
    return {"variant": variant, "depth": depth, "samples": samples}


def claims(tables: Tables) -> Iterator[Claim]:
    runs = tables["runs"]
    variants, many = set(runs["variant"]), int(runs["samples"].max())
    deep, shallow = int(runs["depth"].max()), int(runs["depth"].min())
    for variant in [name for name in RESIDUAL if name in variants]:
        if PLAIN in variants:
            harm = [of(runs, "dispensable", _network(name, deep, many)) for name in (variant, PLAIN)]
            found = paired(*harm)
            yield Claim(
                "Deleting a block of a ResNet hardly changes its error, deleting a layer of VGG brings it to chance.",
                "Veit et al. 2016, arXiv:1605.06431, §4.1 and Fig. 3",
                f"share dispensable, blocks of {variant} against layers of {PLAIN}, {deep} layers: {difference(found)}",
                agreement(found, "above"),
            )
        if shallow < deep:
            sizes = [of(runs, "ratio", _network(variant, depth, many)) for depth in (deep, shallow)]
            found = paired_ratio(*sizes)
            yield Claim(
                "The deeper a ResNet, the less each of its layers changes the signal.",
                "He et al. 2016, arXiv:1512.03385, §4.2 and Fig. 7",
                f"a branch beside its signal, mean over blocks of {variant} at {deep} layers, is {times(found)} at "
                f"{shallow}",
                agreement(found, "below", 1.0),
            )
        near, before = (of(runs, f"near_{when}", _network(variant, deep, many)) for when in ("identity", "initially"))
        pushed = paired(near, before)
        yield Claim(
            "If the identity were optimal, it would be easy to push the branch of a residual block to zero.",
            "He et al. 2016, arXiv:1512.03385, §3.1",
            f"{percent(student(near))} of blocks of {variant} at {deep} layers end near the identity, against before "
            f"training {difference(pushed)} Whether it would be optimal here is not known",
            "yes" if pushed.excludes(0) and pushed.mean > 0 else "not shown",
        )


FIGURES = (
    Figure(
        "error-by-samples",
        "Error by number of samples",
        "A thin line a seed, the thick one their mean with its 95 % interval (Student's t). All take equally many "
        "steps.",
        "lines",
        "runs",
        Axis("samples", "training samples", "log"),
        (TRAIN_ERROR, TEST_ERROR, Axis("gap", "gap of test to training error", "change")),
        panel="depth",
    ),
    Figure(
        "in-use",
        "How much of the network is in use",
        f"Dispensable: deleting the block (in `plain` the layer) raises the test error by less than {100 * NO_HARM:g} "
        "point. Needed: the number of the others.",
        "lines",
        "runs",
        Axis("samples", "training samples", "log"),
        (Axis("dispensable", "share dispensable", "share"), Axis("needed", "number needed")),
        panel="depth",
    ),
    Figure(
        "branch-by-block",
        "Size of each branch",
        f"Beside the signal that it is added to. Near the identity is what lies below {SMALL:g}.",
        "lines",
        "parts",
        Axis("part", "block, from the input"),
        (Axis("ratio", "branch / signal, trained", "log"),),
        panel="network",
    ),
    replace(CURVES, panel="network"),
    Figure("parts-numbers", "Every block in numbers", "One row a seed.", "table", "parts", folded=True),
)

STUDY = Study(
    "capacity",
    tuple(VARIANTS),
    GRIDS,
    work,
    verdicts,
    FIGURES,
    claims=claims,
    finish=used,
    fits=fits,
    cost=cost,
    text=__doc__,
)
