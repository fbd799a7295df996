"""Does a deep network train without skip connections, and why does it with them?

Three networks that differ in one object, the skip connection: `plain` has none, `post-activation` adds the
input back before the last ReLU of each block (ResNet v1), `pre-activation` after it, so that nothing lies on
the identity route (ResNet v2). Same layers, same initial weights for each seed, same data in the same order.

Hypothesis: the deeper plain network is worse on the *training* set too, so it is harder to optimise and not
over-fitted (He et al. 2016, arXiv:1512.03385, §1 and §4.2); shortcuts remove
this, cleaner ones more so (He et al. 2016, arXiv:1603.05027, §4).
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

from skiplab.data import digits
from skiplab.report.figure_spec import TEST_ERROR, TRAIN_ERROR, Axis, Figure
from skiplab.stats.intervals import Interval, paired, paired_ratio
from skiplab.study.charts import CURVES, NETWORKS
from skiplab.study.claims import Claim, agreement, denied
from skiplab.study.grid import Report
from skiplab.study.networks import PLAIN, VARIANTS, cost, fits, for_digits, network
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.run_cell import STRUCTURE, Training, examine, save, split_gradient
from skiplab.study.sentences import compared, difference, lesioned, lightest, of, times
from skiplab.training.fit import Recipe

RECIPE = Recipe(epochs=10, batch_size=128, learning_rate=0.1)
GRIDS = {
    "quick": Grid({"depth": (8, 50)}, recipe=replace(RECIPE, epochs=6)),
    "default": Grid({"depth": (8, 20, 50)}, recipe=RECIPE),
    "full": Grid({"depth": (8, 20, 50, 110)}, seeds=5, recipe=replace(RECIPE, epochs=20)),
}


def work(settings: Settings, folder: Path, report: Report) -> None:
    """A network of one variant, depth and seed."""
    model = for_digits(settings, **VARIANTS[settings["variant"]])
    save(examine(model, digits(), Training(settings, folder, report)), folder)


def verdicts(tables: Tables) -> Iterator[str]:
    """What the numbers say, for the deepest networks of the grid unless the sentence says otherwise."""
    runs = tables["runs"]
    deepest, shallowest = int(runs["depth"].max()), int(runs["depth"].min())
    variants = list(dict.fromkeys(runs["variant"]))
    others = [variant for variant in variants if variant != PLAIN]
    for column, what in (("test_error", "test error"), ("train_error", "training error")):
        for other in others if PLAIN in variants else ():
            yield compared(runs, network(PLAIN, deepest), network(other, deepest), column, what)
    if shallowest < deepest:
        for variant in variants:
            deep, shallow = (of(runs, "train_error", network(variant, each)) for each in (deepest, shallowest))
            change = difference(paired(deep, shallow))
            yield f"The training error of {variant}, {deepest} layers against {shallowest}: {change}"
    for when in ("initialisation", "trained"):
        for other in others if PLAIN in variants else ():
            yield _first_gradient(tables["gradient"], other, deepest, when)
    yield lightest(tables["census"], [network(variant, deepest) for variant in variants])
    for other in others:
        yield from lesioned(tables, network(other, deepest))


def claims(tables: Tables) -> Iterator[Claim]:
    runs = tables["runs"]
    variants, deepest, shallowest = set(runs["variant"]), int(runs["depth"].max()), int(runs["depth"].min())
    if PLAIN in variants and shallowest < deepest:
        deep, shallow = (of(runs, "train_error", network(PLAIN, depth)) for depth in (deepest, shallowest))
        found = paired(deep, shallow)
        yield Claim(
            "A deeper plain network has a higher training error.",
            "He et al. 2016, arXiv:1512.03385, §1 and Fig. 1",
            f"{deepest} layers against {shallowest}: {difference(found)}",
            agreement(found, "above"),
        )
        for other in sorted(variants - {PLAIN}):
            found = _first_ratio(tables["gradient"], other, deepest, "initialisation")
            yield Claim(
                "With batch norm, the trouble of plain networks is unlikely to be caused by vanishing gradients.",
                "He et al. 2016, arXiv:1512.03385, §4.1",
                f"the first layer's gradient in {PLAIN}-{deepest} is {times(found)} that in {other}-{deepest}",
                denied(agreement(found, "below", 1.0)),
            )
    if {"post-activation", "pre-activation"} <= variants:
        post, pre = (of(runs, "test_error", network(f"{name}-activation", deepest)) for name in ("post", "pre"))
        found = paired(post, pre)
        yield Claim(
            "Full pre-activation has the lower test error, above all in very deep networks (1,001 layers: 4.92 % "
            "against 7.61 % on CIFAR-10).",
            "He et al. 2016, arXiv:1603.05027, Table 3",
            f"post against pre at {deepest} layers: {difference(found)}",
            agreement(found, "above"),
        )


def _first_ratio(gradient: pd.DataFrame, other: str, depth: int, when: str) -> Interval:
    rows = gradient[(gradient["when"] == when) & (gradient["order"] == gradient["order"].min())]
    plain, residual = (of(rows, "gradient_norm", network(variant, depth)) for variant in (PLAIN, other))
    return paired_ratio(plain, residual)


def _first_gradient(gradient: pd.DataFrame, other: str, depth: int, when: str) -> str:
    moment = "At initialisation" if when == "initialisation" else "After training"
    ratio = times(_first_ratio(gradient, other, depth, when))
    return f"{moment}, the first layer's gradient in {PLAIN}-{depth} is {ratio} that in {other}-{depth}."


FIGURES = (
    Figure(
        "error-by-depth",
        "Error by depth",
        "One point a seed; the tick is their mean, the line its 95 % interval (Student's t). A cross is a run that "
        "diverged.",
        "points",
        "runs",
        Axis("depth", "weight layers", "steps"),
        (TRAIN_ERROR, TEST_ERROR),
    ),
    replace(
        CURVES,
        how=f"{CURVES.how} If a deep plain network were merely over-fitted, its training error (solid) would be low.",
        panel="depth",
    ),
    *NETWORKS,
)

STUDY = Study(
    "depth",
    tuple(VARIANTS),
    GRIDS,
    work,
    verdicts,
    FIGURES,
    claims=claims,
    once=STRUCTURE,
    finish=split_gradient,
    fits=fits,
    cost=cost,
    text=__doc__,
)
