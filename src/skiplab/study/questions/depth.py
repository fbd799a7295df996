"""Does a deep network train without skip connections, and why does it with them?

Three networks that differ only in the skip connection. `plain` has none. `post-activation` (ResNet v1) adds the input
before the last ReLU of each block. `pre-activation` (ResNet v2) adds it after the branch, so there is no nonlinearity
on the shortcut path. All have the same layers, the same initial weights for each seed, and the same data in the same
order.

Hypothesis: the deeper plain network has a higher error on the *training* set too, so the problem is optimization and
not overfitting (He et al. 2016, arXiv:1512.03385, §1 and §4.2). Shortcuts solve this, and identity paths without a
nonlinearity solve it better (He et al. 2016, arXiv:1603.05027, §4).
"""

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from skiplab.data import digits
from skiplab.stats.intervals import Interval
from skiplab.study.by_seed import depth_range, difference, distinct, ratio
from skiplab.study.charts import CURVES, CURVES_BY_DEPTH, NETWORKS, errors
from skiplab.study.claims import Claim, agreement, negate
from skiplab.study.networks import PLAIN, RECIPE, VARIANTS, digit_network, estimated_cost, is_valid, network_key
from skiplab.study.question import Grid, Study, Tables
from skiplab.study.run_cell import STRUCTURE, RunContext, split_gradient, train_and_measure
from skiplab.study.sentences import (
    compare_shares,
    format_difference,
    format_ratio,
    lesion_sentences,
    most_linear_path_sentence,
)

GRIDS = {
    "quick": Grid(axes={"depth": (8, 50)}, recipe=replace(RECIPE, epochs=6)),
    "default": Grid(axes={"depth": (8, 20, 50)}, recipe=RECIPE),
    "full": Grid(axes={"depth": (8, 20, 50, 110)}, seeds=5, recipe=replace(RECIPE, epochs=20)),
}


def work(run: RunContext) -> Tables:
    """Train and measure the network of one variant, depth and seed."""
    return train_and_measure(digit_network(run.settings, **VARIANTS[run.settings["variant"]]), digits(), run)


def sentences(tables: Tables) -> Iterator[str]:
    """Errors, gradients and lesions of the deepest networks of the grid, and the training error by depth."""
    runs = tables["runs"]
    (shallowest, deepest), variants = depth_range(runs), distinct(runs, "variant")
    others = [variant for variant in variants if variant != PLAIN]
    for column, what in (("test_error", "test error"), ("train_error", "training error")):
        for other in others if PLAIN in variants else ():
            yield compare_shares(runs, network_key(PLAIN, deepest), network_key(other, deepest), column, what)
    if shallowest < deepest:
        for variant in variants:
            keys = [network_key(variant, depth) for depth in (deepest, shallowest)]
            yield compare_shares(runs, keys[0], keys[1], "train_error", "training error")
    for when in ("initialization", "trained"):
        for other in others if PLAIN in variants else ():
            yield _first_gradient_sentence(tables["gradient"], other, deepest, when)
    yield most_linear_path_sentence(tables["census"], [network_key(variant, deepest) for variant in variants])
    for other in others:
        yield from lesion_sentences(tables, network_key(other, deepest))


def claims(tables: Tables) -> Iterator[Claim]:
    """Claims about depth, vanishing gradients and pre-activation, for the deepest networks."""
    runs = tables["runs"]
    (shallowest, deepest), variants = depth_range(runs), set(runs["variant"])
    if PLAIN in variants and shallowest < deepest:
        found = difference(runs, "train_error", network_key(PLAIN, deepest), network_key(PLAIN, shallowest))
        yield Claim(
            claim="A deeper plain network has a higher training error.",
            source="He et al. 2016, arXiv:1512.03385, §1 and Fig. 1",
            found=f"{deepest} layers against {shallowest}: {format_difference(found)}",
            agrees=agreement(found, "above"),
        )
        for other in sorted(variants - {PLAIN}):
            found = _first_gradient_ratio(tables["gradient"], other, deepest, "initialization")
            yield Claim(
                claim="With batch norm, the problem of plain networks is unlikely to be caused by vanishing gradients.",
                source="He et al. 2016, arXiv:1512.03385, §4.1",
                found=f"the first layer's gradient in {PLAIN}-{deepest} is {format_ratio(found)} that in "
                f"{other}-{deepest}",
                agrees=negate(agreement(found, "below", 1.0)),
            )
    if {"post-activation", "pre-activation"} <= variants:
        post, pre = (network_key(f"{name}-activation", deepest) for name in ("post", "pre"))
        found = difference(runs, "test_error", post, pre)
        yield Claim(
            claim="Full pre-activation has the lower test error, above all in very deep networks (1,001 layers: 4.92 % "
            "against 7.61 % on CIFAR-10).",
            source="He et al. 2016, arXiv:1603.05027, Table 3",
            found=f"post against pre at {deepest} layers: {format_difference(found)}",
            agrees=agreement(found, "above"),
        )


def _first_gradient_ratio(gradient: pd.DataFrame, other: str, depth: int, when: str) -> Interval:
    """The first layer's gradient norm in the plain network over that in another, paired by seed."""
    rows = gradient[(gradient["when"] == when) & (gradient["order"] == gradient["order"].min())]
    return ratio(rows, "gradient_norm", network_key(PLAIN, depth), network_key(other, depth))


def _first_gradient_sentence(gradient: pd.DataFrame, other: str, depth: int, when: str) -> str:
    moment = "At initialization" if when == "initialization" else "After training"
    compared = format_ratio(_first_gradient_ratio(gradient, other, depth, when))
    return f"{moment}, the first layer's gradient in {PLAIN}-{depth} is {compared} that in {other}-{depth}."


FIGURES = (
    errors("error-by-depth", "Error by depth"),
    replace(
        CURVES_BY_DEPTH,
        how=f"{CURVES.how} If deep plain networks only overfitted, their training error (solid) would be low.",
    ),
    *NETWORKS,
)

STUDY = Study.from_module(
    __name__, seed_invariant=STRUCTURE, postprocess=split_gradient, is_valid=is_valid, estimated_cost=estimated_cost
)
