"""Why is adding the input back not a mess?

A residual block adds its branch's output F to the signal x that the shortcut brings, so both lie in one tensor and
nothing keeps them apart. `post-activation` (ResNet v1) and `pre-activation` (ResNet v2) networks, same layers and same
initial weights for each seed, are measured before training, after some epochs and at the end.

Hypothesis: F is small beside x and nearly at right angles to it, as random directions in many dimensions are (cosine
0 ± 1/√d), so x survives the sum, and blocks learn to refine it rather than to replace it (Greff et al. 2017,
arXiv:1612.07771; Jastrzębski et al. 2018, arXiv:1710.04773: the later a block, the smaller its change).

Measured at every block on the test part, batch norm statistics estimated anew on the training part so that they are
those of the weights at that moment: ‖F‖ / ‖x‖, their cosine, the cosine of x with x + F, and what the loss rises by
when the branch is deleted.
"""

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from torch.nn import functional as F

from skiplab import measure
from skiplab.analysis.finder import find
from skiplab.data import DataSet, batches, digits
from skiplab.edit import recalibrate
from skiplab.report.figure_spec import TEST_ERROR, Axis, Figure
from skiplab.stats.intervals import paired_ratio, student
from skiplab.study.charts import CURVES
from skiplab.study.claims import Claim, agreement
from skiplab.study.grid import Report
from skiplab.study.networks import RESIDUAL, fits, for_digits
from skiplab.study.networks import VARIANTS as NETWORKS
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.run_cell import SAMPLES, Training, found, load, save, train, wrong
from skiplab.study.sentences import beside, chosen, named, number, of, points, short, times
from skiplab.training.fit import Recipe

VARIANTS = {name: NETWORKS[name] for name in RESIDUAL}
POST, PRE = VARIANTS
RECIPE = Recipe(epochs=10, batch_size=128, learning_rate=0.1)
GRIDS = {
    "quick": Grid({"depth": (20,)}, seeds=5, recipe=replace(RECIPE, epochs=6)),
    "default": Grid({"depth": (20, 56)}, seeds=5, recipe=RECIPE),
    "full": Grid({"depth": (20, 56, 110)}, seeds=5, recipe=replace(RECIPE, epochs=15)),
}


def work(settings: Settings, folder: Path, report: Report) -> None:
    """A network of one variant, depth and seed, measured on the way."""
    options, data = VARIANTS[settings["variant"]], digits()
    training, visits = Training(settings, folder, report), folder / "epochs"
    moments = visited(training.recipe.epochs)

    def visit(epoch: int, network: nn.Module) -> None:
        if epoch in moments:
            visits.mkdir(exist_ok=True)
            save({f"{epoch:06}": blocks(deepcopy(network).cpu(), data).assign(epoch=epoch)}, visits)

    model = for_digits(settings, **options)
    tables, _ = train(model, data, training, visit)
    table = pd.concat(load(visits).values(), ignore_index=True)
    names = {0: "initialisation", training.recipe.epochs: "trained"}
    save({**tables, "blocks": table.assign(moment=table["epoch"].map(names).fillna("on the way"))}, folder)


def visited(epochs: int) -> set[int]:
    """Before training, after 1, 2, 4, … epochs, and at the end: most happens early."""
    return {0, epochs} | {2**i for i in range(epochs.bit_length())}


def blocks(model: nn.Module, data: DataSet) -> pd.DataFrame:
    """One row a block, in order: what its sum is made of, and what its deletion costs.

    block: from 1; ratio, cosine and their deviations over samples as in `skiplab.measure.contribution`; kept: cosine
    of x with x + F; dimensions d of x; spread: root mean square of the cosine over samples, times √d, which is 1
    for random directions; loss_change and error_change as in `skiplab.measure.lesion`.
    """
    program, _ = found(model, data)
    program = recalibrate(program, list(batches(data.train, SAMPLES)))
    skips, test = find(program), list(batches(data.test, SAMPLES))
    table = measure.contribution(program, skips, test)
    lesion = measure.lesion(program, skips, test, F.cross_entropy, wrong)
    lost = lesion.rename(columns={"metric_change": "error_change"})[["id", "loss_change", "error_change"]]
    shapes = {skip.id: program.by_name[skip.merge].shape[1:] for skip in skips}  # without that of samples
    table["block"] = range(1, len(table) + 1)
    table["kept"] = 1 - table["influence"]
    table["dimensions"] = [math.prod(n or 1 for n in shapes[name]) for name in table["id"]]
    table["spread"] = np.sqrt((table["cosine"] ** 2 + table["cosine_std"] ** 2) * table["dimensions"])
    return table.merge(lost, on="id")


def cost(settings: Settings) -> float:
    epochs = settings["recipe"]["epochs"]
    return settings["depth"] * epochs + (40 + settings["depth"]) * len(visited(epochs))


def verdicts(tables: Tables) -> Iterator[str]:
    """What the numbers say, for the deepest networks of the grid."""
    table = tables["blocks"]
    deepest = int(table["depth"].max())
    networks = [{"variant": variant, "depth": deepest} for variant in dict.fromkeys(table["variant"])]
    for network in networks:
        yield _answer(table, network)
    for network in networks:
        yield from _course(table, network)
    for network in networks:
        yield _random(table, network)
    if len(networks) == 2:
        yield from _placements(table, *networks)


def claims(tables: Tables) -> Iterator[Claim]:
    table = tables["blocks"]
    deepest = int(table["depth"].max())
    for variant in dict.fromkeys(table["variant"]):
        network = {"variant": variant, "depth": deepest}
        kept = student(of(table, "kept", {**network, "moment": "trained"}))
        yield Claim(
            "Successive blocks of a stage refine estimates of the same features instead of computing new ones.",
            "Greff et al. 2017, arXiv:1612.07771, abstract",
            f"what leaves a block of trained {named(network)} has a cosine of {number(kept)} with what entered it "
            "(above 0.71 there is more of the old than of the new)",
            agreement(kept, "above", 0.5**0.5),
        )
        early, late = (_third(table, network, last=last) for last in (False, True))
        found = paired_ratio(early, late)
        yield Claim(
            "The first blocks change the representation, the higher ones refine it by ever less.",
            "Jastrzębski et al. 2018, arXiv:1710.04773, abstract",
            f"‖F‖ / ‖x‖ in the first third of the blocks of trained {named(network)} is {times(found)} that in the "
            "last third",
            agreement(found, "above", 1.0),
        )


def _answer(table: pd.DataFrame, network: dict[str, Any]) -> str:
    """What a block of the trained network does to its signal."""
    trained = {**network, "moment": "trained"}
    ratio, cosine, kept = (student(of(table, name, trained)) for name in ("ratio", "cosine", "kept"))
    if cosine.excludes(0):
        angle = "along it" if cosine.mean > 0 else "against it"
    else:
        angle = "not shown to point along or against it"
    return (
        f"In trained {named(network)}, what a branch adds is {number(ratio)} times as large as what it is added to, "
        f"with a cosine of {number(cosine)} ({angle}), and the sum has a cosine of {number(kept)} with what was there "
        "before (1: nothing is lost, 0.71: as much new as old); means over all blocks."
    )


def _course(table: pd.DataFrame, network: dict[str, Any]) -> Iterator[str]:
    """From initialisation to the end."""

    def both(column: str) -> tuple[pd.Series, pd.Series]:
        after, before = (of(table, column, {**network, "moment": each}) for each in ("trained", "initialisation"))
        return after, before

    after, before = both("ratio")
    yield (
        f"In {named(network)}, training makes ‖F‖ / ‖x‖ {times(paired_ratio(after, before))} at initialisation "
        f"({number(student(before))})."
    )
    for column, what in (("cosine", "branch and shortcut"), ("kept", "the signal before and after")):
        yield f"The cosine of {what} in {named(network)}, trained against untrained: {beside(*both(column))}"
    lost = student(of(table, "error_change", {**network, "moment": "trained"}))
    first = student(of(table, "error_change", {**network, "epoch": 1}))
    verb = "is not shown to change" if lost.known and not lost.excludes(0) else "changes"
    yield (
        f"Deleting one branch of trained {named(network)} {verb} its test error: {points(lost)} on average over all "
        f"blocks; after the first epoch, {points(first)}."
    )


def _random(table: pd.DataFrame, network: dict[str, Any]) -> str:
    """Against random directions."""
    parts = []
    for moment, when in (("initialisation", "at initialisation"), ("trained", "after training")):
        ratio = student(of(table, "spread", {**network, "moment": moment}))
        ends = f" (95 % interval {short(ratio.low)} to {short(ratio.high)})" if ratio.known else ""
        if ratio.count:
            parts.append(f"{when} {short(ratio.mean)} times{ends}")
    dimensions = table["dimensions"]
    widest = f"1/√d, {dimensions.max() ** -0.5:.2g} to {dimensions.min() ** -0.5:.2g}"
    return (
        f"Over samples, the cosine of branch and shortcut in {named(network)} strays from 0 (root mean square) "
        f"{', '.join(parts)} as far as that of random directions in as many dimensions ({widest})."
    )


def _placements(table: pd.DataFrame, a: dict[str, Any], b: dict[str, Any]) -> Iterator[str]:
    """One placement against the other."""
    compared = {
        "ratio": "‖F‖ / ‖x‖",
        "cosine": "the cosine of branch and shortcut",
        "kept": "the cosine of the signal before and after",
        "loss_change": "what the loss rises by without a branch (nats)",
    }
    for column, what in compared.items():
        first, second = (of(table, column, {**network, "moment": "trained"}) for network in (a, b))
        yield f"Trained, {what} in {named(a)} against {named(b)}: {beside(first, second)}"


def _third(table: pd.DataFrame, network: dict[str, Any], *, last: bool) -> pd.Series:
    """‖F‖ / ‖x‖ in the first or last third of the blocks of the trained network, by seed."""
    own = chosen(table, {**network, "moment": "trained"})
    third = own["block"].max() // 3
    return of(own[own["block"] > own["block"].max() - third if last else own["block"] <= third], "ratio", {})


MEASURED = (
    Axis("ratio", "‖F‖ / ‖x‖", "log"),
    Axis("cosine", "cosine of F and x"),
    Axis("kept", "cosine of x and x + F"),
    Axis("loss_change", "loss without the branch, change in nats"),
)
COURSE = Figure(
    "course",
    "Over the course of training",
    "Means over all blocks: thin lines are seeds, the thick one their mean (of ‖F‖ / ‖x‖ the geometric one), the band "
    "its 95 % interval. Epoch 0 is before training. F is what the branch adds, x what the shortcut brings.",
    "lines",
    "blocks",
    Axis("epoch", "epoch"),
    MEASURED,
    panel="depth",
)
FIGURES = (
    COURSE,
    Figure(
        "blocks-trained",
        "Block by block, trained",
        "The same at the end of training, from the first block to the last. Where the resolution halves, the shortcut "
        "brings every other pixel alone, so its x is small.",
        "lines",
        "blocks",
        Axis("block", "block, from input to output"),
        MEASURED,
        panel="depth",
        where={"moment": "trained"},
    ),
    Figure(
        "blocks-initialisation",
        "Block by block, at initialisation",
        "The same before training. Last, how far the cosine strays from 0 over samples, in units of what random "
        "directions in as many dimensions would (1/√d).",
        "lines",
        "blocks",
        Axis("block", "block, from input to output"),
        (*MEASURED[:3], Axis("spread", "stray of the cosine / that of random directions", "log")),
        panel="depth",
        where={"moment": "initialisation"},
    ),
    replace(CURVES, panel="depth"),
)

STUDY = Study(
    "sum",
    tuple(VARIANTS),
    GRIDS,
    work,
    verdicts,
    FIGURES,
    claims=claims,
    outcomes=(TEST_ERROR,),
    fits=fits,
    cost=cost,
    text=__doc__,
)
