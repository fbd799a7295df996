"""Why is adding the input back not a mess?

A residual block adds the output F of its branch to the value x of its shortcut. The sum is one tensor, so nothing
separates the two any more. `post-activation` (ResNet v1) and `pre-activation` (ResNet v2) networks with the same layers
and the same initial weights for each seed are measured before training, after some epochs and at the end.

Hypothesis: F is small compared with x and nearly orthogonal to it, as random directions in many dimensions are (cosine
0 ± 1/√d), so the sum preserves x, and blocks refine it instead of replacing it (Greff et al. 2017, arXiv:1612.07771;
Jastrzębski et al. 2018, arXiv:1710.04773: the later a block, the smaller its change).

Measured at every block on the test part: ‖F‖ / ‖x‖, their cosine, the cosine of x with x + F, and the rise of the loss
when the branch is deleted. Batch norm statistics are re-estimated on the training part, so that they belong to the
weights at that moment.
"""

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from torch.nn import functional as F

from skiplab import measure
from skiplab.analysis.finder import find
from skiplab.data import DataSet, batches, digits
from skiplab.edit import recalibrate
from skiplab.report.figure_spec import TEST_ERROR, Axis, Figure, lines
from skiplab.stats.intervals import paired_ratio, student
from skiplab.study.by_seed import depth_range, distinct, select_rows, values_by_seed
from skiplab.study.charts import CURVES_BY_DEPTH
from skiplab.study.claims import Claim, agreement
from skiplab.study.networks import RECIPE, RESIDUAL, digit_network, is_valid, network_key
from skiplab.study.networks import VARIANTS as NETWORKS
from skiplab.study.question import Grid, Settings, Study, Tables, network_name
from skiplab.study.run_cell import (
    SAMPLES,
    RunContext,
    capture_and_find,
    error_rate,
    load_tables,
    save_tables,
    train_network,
)
from skiplab.study.sentences import compare_values, format_number, format_points, format_ratio, format_short

VARIANTS = {name: NETWORKS[name] for name in RESIDUAL}
POST, PRE = VARIANTS
GRIDS = {
    "quick": Grid(axes={"depth": (20,)}, seeds=5, recipe=replace(RECIPE, epochs=6)),
    "default": Grid(axes={"depth": (20, 56)}, seeds=5, recipe=RECIPE),
    "full": Grid(axes={"depth": (20, 56, 110)}, seeds=5, recipe=replace(RECIPE, epochs=15)),
}


def work(run: RunContext) -> Tables:
    """Train the network of one variant, depth and seed, and measure it during training."""
    data, visits, epochs = digits(), run.folder / "epochs", run.recipe.epochs
    moments = measured_epochs(epochs)

    def visit(epoch: int, network: nn.Module) -> None:
        if epoch in moments:
            visits.mkdir(exist_ok=True)
            save_tables({f"{epoch:06}": block_table(deepcopy(network).cpu(), data).assign(epoch=epoch)}, visits)

    tables, _ = train_network(digit_network(run.settings, **VARIANTS[run.settings["variant"]]), data, run, visit)
    table = pd.concat(load_tables(visits).values(), ignore_index=True)
    names = {0: "initialization", epochs: "trained"}
    return {**tables, "blocks": table.assign(moment=table["epoch"].map(names).fillna("on the way"))}


def measured_epochs(epochs: int) -> set[int]:
    """Before training, after 1, 2, 4, … epochs, and at the end: most changes happen early."""
    return {0, epochs} | {2**i for i in range(epochs.bit_length())}


def block_table(model: nn.Module, data: DataSet) -> pd.DataFrame:
    """One row per block, in order: size and direction of its branch, and the effect of deleting it.

    block: from 1; ratio, cosine and their deviations over samples as in `skiplab.measure.contribution`; kept: cosine
    of x with x + F; dimensions: d of x; spread: root mean square of the cosine over samples times √d, which is 1 for
    random directions; loss_change and error_change as in `skiplab.measure.lesion`.
    """
    program, _ = capture_and_find(model, data)
    program = recalibrate(program, list(batches(data.train, SAMPLES)))
    skips, test = find(program), list(batches(data.test, SAMPLES))
    table = measure.contribution(program, skips, test)
    lesion = measure.lesion(program, skips, test, F.cross_entropy, error_rate)
    lesion = lesion.rename(columns={"metric_change": "error_change"})[["id", "loss_change", "error_change"]]
    shapes = {skip.id: program.by_name[skip.merge].shape[1:] for skip in skips}  # without the sample dimension
    table["block"] = range(1, len(table) + 1)
    table["kept"] = 1 - table["influence"]
    table["dimensions"] = [math.prod(n or 1 for n in shapes[name]) for name in table["id"]]
    table["spread"] = np.sqrt((table["cosine"] ** 2 + table["cosine_std"] ** 2) * table["dimensions"])
    return table.merge(lesion, on="id")


def estimated_cost(settings: Settings) -> float:
    """Training, and a measurement at each measured epoch."""
    epochs = settings["recipe"]["epochs"]
    return settings["depth"] * epochs + (40 + settings["depth"]) * len(measured_epochs(epochs))


def sentences(tables: Tables) -> Iterator[str]:
    """Size and direction of the branches in the deepest networks of the grid."""
    table = tables["blocks"]
    networks = _deepest_networks(table)
    for network in networks:
        yield _answer_sentence(table, network)
    for network in networks:
        yield from _training_sentences(table, network)
    for network in networks:
        yield _random_direction_sentence(table, network)
    if len(networks) == 2:
        yield from _placement_sentences(table, *networks)


def claims(tables: Tables) -> Iterator[Claim]:
    """Claims about refinement, for the deepest networks."""
    table = tables["blocks"]
    for network in _deepest_networks(table):
        kept = student(values_by_seed(table, "kept", {**network, "moment": "trained"}))
        yield Claim(
            claim="Successive blocks of a stage refine estimates of the same features instead of computing new ones.",
            source="Greff et al. 2017, arXiv:1612.07771, abstract",
            found=f"cosine of a block's output with its input in trained {network_name(network)}: "
            f"{format_number(kept)} (above 0.71 the input is the larger part)",
            agrees=agreement(kept, "above", 0.5**0.5),
        )
        early, late = (_third_of_blocks(table, network, last=last) for last in (False, True))
        found = paired_ratio(early, late)
        yield Claim(
            claim="The first blocks change the representation, later ones refine it by less and less.",
            source="Jastrzębski et al. 2018, arXiv:1710.04773, abstract",
            found=f"‖F‖ / ‖x‖ in the first third of the blocks of trained {network_name(network)} is "
            f"{format_ratio(found)} that in the last third",
            agrees=agreement(found, "above", 1.0),
        )


def _deepest_networks(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [network_key(variant, depth_range(table)[1]) for variant in distinct(table, "variant")]


def _answer_sentence(table: pd.DataFrame, network: dict[str, Any]) -> str:
    """Size and direction of a branch in the trained network."""
    trained = {**network, "moment": "trained"}
    ratio, cosine, kept = (student(values_by_seed(table, name, trained)) for name in ("ratio", "cosine", "kept"))
    direction = "no clear direction"
    if cosine.excludes(0):
        direction = "along the shortcut" if cosine.mean > 0 else "against the shortcut"
    return (
        f"Trained {network_name(network)}, mean over blocks: the cosine of a block's output with its input is "
        f"{format_number(kept)} (1: nothing is lost, 0.71: as much new as old). The branch is {format_number(ratio)} "
        f"times as large as the shortcut, and their cosine is {format_number(cosine)} ({direction})."
    )


def _training_sentences(table: pd.DataFrame, network: dict[str, Any]) -> Iterator[str]:
    """How training changes the measures."""

    def trained_and_initial(column: str) -> tuple[pd.Series, pd.Series]:
        trained, initial = (
            values_by_seed(table, column, {**network, "moment": each}) for each in ("trained", "initialization")
        )
        return trained, initial

    name = network_name(network)
    trained, initial = trained_and_initial("ratio")
    yield (
        f"‖F‖ / ‖x‖ in trained {name} is {format_ratio(paired_ratio(trained, initial))} at initialization "
        f"({format_number(student(initial))})."
    )
    for column, what in (("cosine", "branch and shortcut"), ("kept", "a block's input and output")):
        yield (
            f"Cosine of {what} in {name}, trained and at initialization: {compare_values(*trained_and_initial(column))}"
        )
    change = student(values_by_seed(table, "error_change", {**network, "moment": "trained"}))
    first = student(values_by_seed(table, "error_change", {**network, "epoch": 1}))
    unclear = " (no clear change)" if change.known and not change.excludes(0) else ""
    yield (
        f"Deleting one branch of trained {name} changes its test error by {format_points(change)}{unclear}, mean "
        f"over blocks; after the first epoch, by {format_points(first)}."
    )


def _random_direction_sentence(table: pd.DataFrame, network: dict[str, Any]) -> str:
    """The cosine of branch and shortcut compared with that of random directions."""
    parts = []
    for moment, when in (("initialization", "at initialization"), ("trained", "after training")):
        ratio = student(values_by_seed(table, "spread", {**network, "moment": moment}))
        interval = f" (95 % interval {format_short(ratio.low)} to {format_short(ratio.high)})" if ratio.known else ""
        if ratio.count:
            parts.append(f"{when} {format_short(ratio.mean)} times{interval}")
    dimensions = table["dimensions"]
    expected = f"1/√d, {dimensions.max() ** -0.5:.2g} to {dimensions.min() ** -0.5:.2g}"
    return (
        f"Root mean square over samples of the cosine of branch and shortcut in {network_name(network)}, relative to "
        f"random directions in as many dimensions ({expected}): {', '.join(parts)}."
    )


def _placement_sentences(table: pd.DataFrame, a: dict[str, Any], b: dict[str, Any]) -> Iterator[str]:
    """One placement compared with the other, after training."""
    columns = {
        "ratio": "‖F‖ / ‖x‖",
        "cosine": "cosine of branch and shortcut",
        "kept": "cosine of a block's input and output",
        "loss_change": "rise of the loss without a branch (nats)",
    }
    for column, what in columns.items():
        first, second = (values_by_seed(table, column, {**network, "moment": "trained"}) for network in (a, b))
        yield f"Trained {network_name(a)} against {network_name(b)}, {what}: {compare_values(first, second)}"


def _third_of_blocks(table: pd.DataFrame, network: dict[str, Any], *, last: bool) -> pd.Series:
    """‖F‖ / ‖x‖ in the first or last third of the blocks of the trained network, by seed."""
    own = select_rows(table, {**network, "moment": "trained"})
    third = own["block"].max() // 3
    return values_by_seed(
        own[own["block"] > own["block"].max() - third if last else own["block"] <= third], "ratio", {}
    )


MEASURED = (
    Axis("ratio", "‖F‖ / ‖x‖", "log"),
    Axis("cosine", "cosine of F and x"),
    Axis("kept", "cosine of x and x + F"),
    Axis("loss_change", "rise of the loss without the branch (nats)"),
)
SPREAD = Axis("spread", "spread of the cosine / that of random directions", "log")
EPOCH, BLOCK = Axis("epoch", "epoch"), Axis("block", "block, from input to output")
FIGURES = (
    Figure(
        name="course",
        heading="During training",
        how="Means over all blocks. Thin lines are seeds, the thick line is their mean (of ‖F‖ / ‖x‖ the geometric "
        "mean), the band its 95 % interval. Epoch 0 is before training. F is the output of the branch, x the value of "
        "the shortcut.",
        **lines("blocks", EPOCH, *MEASURED, panel="depth"),
    ),
    Figure(
        name="blocks-trained",
        heading="Block by block, trained",
        how="The same at the end of training, from the first block to the last. Where the resolution halves, the "
        "shortcut takes every other pixel only, so x is small.",
        **lines("blocks", BLOCK, *MEASURED, panel="depth", where={"moment": "trained"}),
    ),
    Figure(
        name="blocks-initialization",
        heading="Block by block, at initialization",
        how="The same before training. Last: root mean square of the cosine over samples, relative to random "
        "directions in as many dimensions (1/√d).",
        **lines("blocks", BLOCK, *MEASURED[:3], SPREAD, panel="depth", where={"moment": "initialization"}),
    ),
    CURVES_BY_DEPTH,
)

STUDY = Study.from_module(__name__, outcomes=(TEST_ERROR,), is_valid=is_valid, estimated_cost=estimated_cost)
