"""Does a Transformer train better with its norms before the branches or after the merges, and with warm-up?

Small Vision Transformers on the digits. They differ in the place of the norm around each skip connection: `pre` before
the sublayer, off the shortcut; `post` after the merge, on every path, as first published; `parallel` as `pre`, with
attention and MLP as two branches of one skip connection; `none` is `pre` without shortcuts. All have the same weights
for each seed, except for the final norm of `pre`, `parallel` and `none` (2 · width parameters). Adam, with cosine decay
of the learning rate. With warm-up, the learning rate first rises linearly over a fifth of the epochs; the number of
epochs is the same.

Hypothesis: in post-LN the gradient near the output is large at initialization, at any depth, so that large learning
rates fail without warm-up. In pre-LN it falls with depth, and warm-up is unnecessary (Xiong et al. 2020,
arXiv:2002.04745, Theorem 1, §4).

Measured: the gradient of each layer at initialization; final errors; and which runs fail to train: those that diverge,
or end with a training error above half of the chance error (that of always predicting the most common class).
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd

from skiplab.data import digits
from skiplab.errors import UsageError
from skiplab.models.vit import VisionTransformer, vit
from skiplab.report.figure_spec import TRAIN_ERROR, Axis, Figure, points
from skiplab.stats.intervals import Interval, paired, paired_ratio, student
from skiplab.study.by_seed import distinct, select_rows, values_by_seed
from skiplab.study.charts import CURVES, GRADIENT, HOW_POINTS
from skiplab.study.claims import Claim, agreement, equivalence
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.run_cell import (
    RunContext,
    build_with_seed,
    measure_gradients,
    split_gradient,
    train_network,
)
from skiplab.study.sentences import Sign, format_difference, format_percent, format_ratio, group_by_sign
from skiplab.training.objectives import chance
from skiplab.training.recipe import Recipe

VARIANTS: dict[str, Any] = {  # options of `vit`
    "pre": {"placement": "pre"},
    "post": {"placement": "post"},
    "parallel": {"placement": "parallel"},
    "none": {"placement": "pre", "skip": False},
}
PRE, POST = "pre", "post"
SIZE: dict[str, Any] = {"patch": 4, "width": 32, "heads": 4, "hidden": 64}
WARMUP = 0.2  # of all epochs
EQUIVALENT = 0.05  # errors that differ by less count as equal
UNTRAINED = 0.5  # share of the chance error, above which a run failed to train
RECIPE = Recipe(epochs=6, batch_size=64, learning_rate=1e-3, weight_decay=0.0, optimizer="adamw", eval_samples=512)
BOTH = (False, True)
GRIDS = {
    "quick": Grid(
        axes={"depth": (2, 10), "learning_rate": (1e-3, 1e-2), "warmup": BOTH},
        recipe=replace(RECIPE, epochs=4),
        variants=("pre", "post", "none"),
    ),
    "default": Grid(axes={"depth": (2, 16), "learning_rate": (1e-3, 1e-2), "warmup": BOTH}, recipe=RECIPE),
    "full": Grid(axes={"depth": (2, 16), "learning_rate": (1e-3, 3e-3, 1e-2), "warmup": BOTH}, seeds=5, recipe=RECIPE),
}


def build(variant: str, depth: int) -> VisionTransformer:
    """The network, with initial weights from torch's random state."""
    return vit(depth=depth, **SIZE, **VARIANTS[variant])


def work(run: RunContext) -> Tables:
    """Train the network of one variant, depth, learning rate and seed, with or without warm-up."""
    data, settings = digits(), run.settings
    model = build_with_seed(lambda: build(settings["variant"], settings["depth"]), settings["seed"])
    gradient = measure_gradients(model, data)
    warmup = WARMUP * run.recipe.epochs if settings["warmup"] else 0.0
    recipe = replace(run.recipe, learning_rate=settings["learning_rate"], warmup_epochs=warmup)
    tables, _ = train_network(model, data, replace(run, settings={**settings, "recipe": recipe.record()}))
    bound = UNTRAINED * chance(data.train)
    tables["runs"]["trains"] = tables["runs"]["train_error"] < bound  # False for a diverged run, whose error is NaN
    return {**tables, "gradient": gradient}


def is_valid(settings: Settings) -> bool:
    """True; raises `UsageError` for a depth or learning rate out of range."""
    if settings["depth"] < 1 or not 0 < settings["learning_rate"] < math.inf:
        raise UsageError(
            f"depth {settings['depth']}, learning rate {settings['learning_rate']}: give a depth of at least 1 and a "
            "learning rate above 0"
        )
    return True


def estimated_cost(settings: Settings) -> float:
    """Proportional to depth and epochs."""
    return (settings["depth"] + 1) * (settings["recipe"]["epochs"] + 2)


def postprocess(tables: Tables) -> Tables:
    """Split the gradient table, and keep one copy of what does not depend on learning rate and warm-up."""
    tables = split_gradient(tables)
    gradient = tables["gradient"]
    keys = [name for name in ("variant", "depth", "seed", "when", "layer") if name in gradient]
    gradient = gradient.drop_duplicates(keys).drop(columns=["learning_rate", "warmup"])
    del tables["merge_gradient"]
    curves = tables["curves"]  # they log the learning rate of each epoch under the name of the axis
    curves = curves.loc[:, ~curves.columns.duplicated()]
    deepest = curves[curves["depth"] == curves["depth"].max()]
    tables |= {"curves": curves, "deepest_curves": deepest}
    return {**tables, "gradient": gradient, "trained": _outcome_counts(tables["runs"])}


def _outcome_counts(runs: pd.DataFrame) -> pd.DataFrame:
    """The number of runs of each network that trained, that failed to train, and that diverged."""
    diverged = runs["status"] == "diverged"
    counted = runs.assign(stuck=~runs["trains"] & ~diverged, diverged=diverged)
    by = ["variant", "depth", "learning_rate", "warmup"]
    return counted.groupby(by, sort=False)[["trains", "stuck", "diverged"]].sum().reset_index()


def sentences(tables: Tables) -> Iterator[str]:
    """Which runs train, their errors, and the gradients at initialization; mostly of the deepest networks."""
    runs = tables["runs"]
    variants, depths = distinct(runs, "variant"), sorted(runs["depth"].unique().tolist())
    yield _count_sentence(runs, variants, depths[-1])
    for depth in reversed(depths):
        parts = [f"{variant} {_largest_rates(runs, variant, depth)}" for variant in variants]
        yield f"Largest learning rate at which every run trains, {depth} layers: {'; '.join(parts)}."
    if {PRE, POST} <= set(variants):
        for depth in reversed(depths):
            yield from _placement_sentences(runs, depth)
    for variant in variants:
        yield from _warmup_sentences(runs, variant, depths[-1])
    yield from _gradient_sentences(tables["gradient"], variants, depths)
    yield (
        f"A run fails to train if it diverges or its final training error is above {UNTRAINED:g} times the chance "
        "error (always predicting the most common class)."
    )


def _count_sentence(runs: pd.DataFrame, variants: list[str], depth: int) -> str:
    """The number of runs that train at the largest learning rate."""
    rate = float(runs["learning_rate"].max())
    own = select_rows(runs, {"depth": depth, "learning_rate": rate})
    parts = []
    for variant in variants:
        counts = [
            f"{int(runs['trains'].sum())} of {len(runs)} runs {'with' if warmup else 'without'} warm-up"
            for warmup, runs in own[own["variant"] == variant].groupby("warmup")
        ]
        parts.append(f"{variant} in {' and '.join(counts)}")
    return f"{depth} layers train at the largest learning rate tried, {rate:g}: {'; '.join(parts)}."


def _largest_rates(runs: pd.DataFrame, variant: str, depth: int) -> str:
    """The largest learning rate at which every run trains, without and with warm-up."""
    parts = []
    for warmup, own in select_rows(runs, {"variant": variant, "depth": depth}).groupby("warmup"):
        word = "with warm-up" if warmup else "without"
        rates = sorted(own["learning_rate"].unique().tolist())
        trains = [own.loc[own["learning_rate"] == rate, "trains"].tolist() for rate in rates]
        rows = [(rate, sum(each), len(each)) for rate, each in zip(rates, trains, strict=True)]
        whole = [(rate, count) for rate, trained, count in rows if trained == count]
        if whole:
            rate, count = max(whole)
            parts.append(f"{rate:g} {word} ({count} of {count} runs)")
        else:
            rate, trained, count = max(rows, key=lambda row: row[1])
            parts.append(f"no rate tried {word} (at best {trained} of {count} runs, at {rate:g})")
    return ", ".join(parts)


def _placement_sentences(runs: pd.DataFrame, depth: int) -> Iterator[str]:
    """Test error of post-LN compared with pre-LN at every learning rate, grouped by sign of the interval."""
    found = []
    own = runs[runs["depth"] == depth]
    for rate in sorted(own["learning_rate"].unique().tolist()):
        for warmup in sorted(own["warmup"].unique().tolist()):
            where = {"depth": depth, "learning_rate": rate, "warmup": warmup}
            post, pre = (values_by_seed(own, "test_error", {"variant": name, **where}) for name in (POST, PRE))
            change = paired(post, pre)
            if change.known:
                errors = f"{format_percent(student(post))} against {format_percent(student(pre))}"
                found.append((change, f"at {rate:g} {'with' if warmup else 'without'} warm-up ({errors})"))
    words: dict[Sign, str] = {"above": "higher", "below": "lower", "neither": "no clear difference"}
    if groups := group_by_sign(found, words):
        yield f"Test error of {POST} compared with {PRE}, {depth} layers, paired by seed: {groups}."


def _warmup_sentences(runs: pd.DataFrame, variant: str, depth: int) -> Iterator[str]:
    """The effect of warm-up at the largest learning rate."""
    rate = float(runs["learning_rate"].max())
    change, without, warm = _warmup_change(runs, variant, depth, rate)
    if change.count:
        yield (
            f"Training error of {variant}, {depth} layers at {rate:g}: {format_percent(without)} without warm-up, "
            f"{format_percent(warm)} with it; {format_difference(change)}"
        )


def _warmup_change(runs: pd.DataFrame, variant: str, depth: int, rate: float) -> tuple[Interval, Interval, Interval]:
    """Training error without warm-up minus that with it, and both errors."""
    where = {"variant": variant, "depth": depth, "learning_rate": rate}
    without, warm = (values_by_seed(runs, "train_error", {**where, "warmup": each}) for each in BOTH)
    return paired(without, warm), student(without), student(warm)


def _gradient_sentences(gradient: pd.DataFrame, variants: list[str], depths: list[int]) -> Iterator[str]:
    """The gradients near the output and near the input, before the first step."""
    deep, shallow = depths[-1], depths[0]
    last = {name: _mlp_gradient(gradient, name, deep, "last") for name in variants}
    for other in variants if PRE in variants else ():
        if other != PRE and (ratio := paired_ratio(last[other], last[PRE])).count:
            yield (
                f"At initialization, {deep} layers, the last MLP's gradient in {other} is {format_ratio(ratio)} that "
                f"in {PRE}."
            )
    for name in variants:
        if (ratio := paired_ratio(_mlp_gradient(gradient, name, deep, "first"), last[name])).count and deep > 1:
            yield (
                f"At initialization, {deep} layers, the first MLP's gradient in {name} is {format_ratio(ratio)} that "
                "of its last MLP."
            )
        growth = paired_ratio(last[name], _mlp_gradient(gradient, name, shallow, "last"))
        if growth.count and deep > shallow:
            yield (
                f"At initialization, the last MLP's gradient in {name} with {deep} layers is {format_ratio(growth)} "
                f"that with {shallow} layers."
            )


def _mlp_gradient(gradient: pd.DataFrame, variant: str, depth: int, which: str) -> pd.Series:
    """Norm of the gradient of the second weight matrix of the first or last layer's MLP, by seed."""
    layer = f"encoder.layers.encoder_layer_{0 if which == 'first' else depth - 1}.mlp.3"
    where = {"variant": variant, "depth": depth, "when": "initialization", "layer": layer}
    return values_by_seed(gradient, "gradient_norm", where)


def claims(tables: Tables) -> Iterator[Claim]:
    """Claims about gradients at initialization, and about warm-up."""
    yield from _gradient_claims(tables)
    yield from _warmup_claims(tables["runs"])


def _gradient_claims(tables: Tables) -> Iterator[Claim]:
    runs, gradient = tables["runs"], tables["gradient"]
    variants, depths = set(runs["variant"]), sorted(runs["depth"].unique().tolist())
    deep, shallow = depths[-1], depths[0]
    theorem = "Xiong et al. 2020, arXiv:2002.04745, Theorem 1"
    growth = {
        name: paired_ratio(_mlp_gradient(gradient, name, deep, "last"), _mlp_gradient(gradient, name, shallow, "last"))
        for name in variants
    }
    found = f"the last MLP's gradient with {deep} layers is {{}} that with {shallow}"
    if POST in variants and deep > shallow:
        yield Claim(
            claim="In post-LN, the gradient of the last layer's MLP at initialization does not depend on the depth.",
            source=theorem,
            found=found.format(format_ratio(growth[POST])),
            agrees=agreement(growth[POST], "same", 1.0),
        )
    if PRE in variants and deep > shallow:
        yield Claim(
            claim=f"In pre-LN, it falls as one over the root of the depth (here {math.sqrt(shallow / deep):.2f} "
            "times).",
            source=theorem,
            found=found.format(format_ratio(growth[PRE])),
            agrees=agreement(growth[PRE], "below", 1.0),
        )
    if {PRE, POST} <= variants:
        ratio = paired_ratio(*(_mlp_gradient(gradient, name, deep, "last") for name in (POST, PRE)))
        yield Claim(
            claim="At initialization the gradients near the output are large in post-LN, and much smaller in pre-LN.",
            source="Xiong et al. 2020, arXiv:2002.04745, §3.3 and Fig. 3",
            found=f"the last MLP's gradient in {POST} is {format_ratio(ratio)} that in {PRE}, {deep} layers",
            agrees=agreement(ratio, "above", 1.0),
        )


def _warmup_claims(runs: pd.DataFrame) -> Iterator[Claim]:
    """For the largest depth and learning rate, where warm-up matters most."""
    deep, rate = int(runs["depth"].max()), float(runs["learning_rate"].max())
    texts = {
        PRE: f"Without warm-up, pre-LN trains as well as with it (here: within {100 * EQUIVALENT:g} points).",
        POST: "Without warm-up, post-LN trains much worse, or not at all.",
    }
    for name, claim in texts.items():
        found, *_ = _warmup_change(runs, name, deep, rate)
        if name in set(runs["variant"]) and set(BOTH) <= set(runs["warmup"]):
            yield Claim(
                claim=claim,
                source="Xiong et al. 2020, arXiv:2002.04745, §3.1 and §4",
                found=f"training error of {deep} layers at {rate:g}, without minus with warm-up: "
                f"{format_difference(found)}",
                agrees=equivalence(found, EQUIVALENT) if name == PRE else agreement(found, "above"),
            )


HOW = f"{HOW_POINTS} Chance is near 90 %."
RATE = Axis("learning_rate", "learning rate", "steps")
DEEPEST_CURVES = replace(
    CURVES, heading="Training curves of the deepest networks", table="deepest_curves", panel="learning_rate"
)
FIGURES = (
    Figure(
        name="without-warm-up",
        heading="Training error by learning rate, without warm-up",
        how=HOW,
        **points("runs", RATE, TRAIN_ERROR, panel="depth", where={"warmup": False}),
    ),
    Figure(
        name="with-warm-up",
        heading="Training error by learning rate, with warm-up",
        how=f"{HOW} As many epochs as without, of which the first fifth is the warm-up.",
        **points("runs", RATE, TRAIN_ERROR, panel="depth", where={"warmup": True}),
    ),
    replace(
        GRADIENT,
        how="At initialization, norm of the loss's gradient for each weight layer. Thin lines are seeds, the thick "
        "line is their geometric mean. Each layer of the network has four weight layers: two of attention, two of "
        "the MLP.",
    ),
    Figure(
        name="which-train",
        heading="Runs that train",
        how=f"Number of seeds with a final training error below {UNTRAINED:g} times the chance error (trains) and "
        "above it (stuck), and of those that diverged.",
        chart="table",
        table="trained",
    ),
    replace(DEEPEST_CURVES, heading=f"{DEEPEST_CURVES.heading}, without warm-up", where={"warmup": False}),
    replace(
        DEEPEST_CURVES,
        name="training-curves-warm-up",
        heading=f"{DEEPEST_CURVES.heading}, with warm-up",
        where={"warmup": True},
    ),
)

STUDY = Study.from_module(__name__, postprocess=postprocess, is_valid=is_valid, estimated_cost=estimated_cost)
