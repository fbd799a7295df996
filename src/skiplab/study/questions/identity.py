"""Can a deep network learn the identity, or a linear map? Does a nonlinearity on every path make that harder?

Fully connected networks that differ in the place of their ReLUs: many on every path (`plain`, without shortcuts;
`post`, after every addition), one on every path (`pre`, at its end), none on the shortcut path (`pre-open`, the same
without the last one), or none at all (`linear` without shortcuts and `linear-skip` with them). A `unet` tests long
skips; it takes images, so it only learns the identity, with a ReLU before and after each of its skips. Inputs are
independent normal samples. Hidden layers are twice as wide as the input, so a ReLU network can represent the identity.
Shortcuts are merged with a learned factor on the branch that starts at 0 (ReZero): without norm a sum would double its
variance at every block, and with batch norm the output would contain its noise.

Hypothesis: layers that could be the identity do not become it by training (the construction argument of He et al.
2016, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, §1 and §3.1); linear residual networks are easy
to optimize at any depth (Hardt and Ma 2017, "Identity Matters in Deep Learning", arXiv:1611.04231, §2); fully connected
networks do not learn the identity from examples (Zhang et al. 2020, "Identity Crisis", arXiv:1902.04698).

Measured: the unexplained share of the target's variance on new samples (1 − R²), the first layer's gradient at
initialization, and the nonlinearities on the most linear path.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import nn

from skiplab.data import DataSet, Split
from skiplab.errors import UsageError
from skiplab.models.mlp import mlp
from skiplab.models.unet import unet
from skiplab.report.figure_spec import Axis, Figure, points
from skiplab.stats.intervals import student
from skiplab.study.by_seed import depth_range, distinct, ratio, select_rows, values_by_seed
from skiplab.study.charts import CURVES, CURVES_BY_DEPTH, DEPTH, PATHS
from skiplab.study.claims import Claim, agreement
from skiplab.study.networks import network_key
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.run_cell import (
    RunContext,
    build_with_seed,
    measure_gradients,
    measure_structure,
    train_network,
)
from skiplab.study.sentences import Sign, format_percent, format_ratio, group_by_sign, most_linear_path_sentence
from skiplab.training.fit import Recipe

UNET = "unet"
PERCEPTRONS: dict[str, Any] = {  # options of `mlp`
    "plain": {"skip": None},
    "post": {"placement": "post", "combine": "rezero"},
    "pre": {"placement": "pre", "combine": "rezero"},
    "pre-open": {"placement": "pre", "combine": "rezero", "last": "none"},
    "linear": {"skip": None, "activation": None},
    "linear-skip": {"activation": None, "combine": "rezero"},
}
VARIANTS = (*PERCEPTRONS, UNET)
TARGETS = ("identity", "orthogonal")
SIDE = 8  # an input is an image of 8×8 numbers, or a vector of 64
TRAIN_SAMPLES, TEST_SAMPLES = 2048, 512  # samples
UNET_DEPTHS = {8: 1, 18: 3}  # weight layers of a U-Net: number of times it halves the image
RECIPE = Recipe(
    epochs=12,
    batch_size=64,
    learning_rate=1e-3,
    weight_decay=0.0,
    warmup_epochs=1.0,
    optimizer="adamw",
    eval_samples=256,
)
GRIDS = {
    "quick": Grid(axes={"depth": (8, 18), "target": TARGETS}, recipe=replace(RECIPE, epochs=8)),
    "default": Grid(axes={"depth": (8, 18, 50), "target": TARGETS}, recipe=RECIPE),
    "full": Grid(axes={"depth": (8, 18, 50), "target": TARGETS}, seeds=5, recipe=RECIPE),
}


def work(run: RunContext) -> Tables:
    """Train and measure the network of one variant, depth, target and seed; the seed also draws samples and map."""
    variant, depth, seed = (run.settings[name] for name in ("variant", "depth", "seed"))
    data = make_data(run.settings["target"], seed, images=variant == UNET)
    model = build_with_seed(lambda: build(variant, depth), seed)
    gradient = measure_gradients(model, data)
    first = gradient[gradient["what"] == "weight"].sort_values("order").iloc[0]
    tables, _ = train_network(model, data, run)
    runs = tables["runs"].assign(first_gradient=float(first["gradient_norm"]))
    return {**tables, "runs": runs, "census": measure_structure(model, data)["census"]}


def build(variant: str, depth: int) -> nn.Module:
    """The network, with initial weights from torch's random state."""
    if variant == UNET:
        return unet(depth=UNET_DEPTHS[depth], width=SIDE, num_classes=1)
    size = SIDE * SIDE
    return mlp(depth, 2 * size, in_features=size, out_features=size, **PERCEPTRONS[variant])


def make_data(target: str, seed: int, *, images: bool) -> DataSet:
    """Normal samples x (N, 1, 8, 8); y is x, or x times a random orthogonal matrix.

    y is (N, 64), or (N, 1, 8, 8) for `images`. The matrix is uniformly distributed: Q of a normal matrix's QR.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(TRAIN_SAMPLES + TEST_SAMPLES, 1, SIDE, SIDE, generator=generator)
    y = x.flatten(1)
    if target == "orthogonal":
        q, r = torch.linalg.qr(torch.randn(SIDE * SIDE, SIDE * SIDE, generator=generator))
        y = y @ (q * r.diagonal().sign()).T
    y = y.reshape(x.shape) if images else y
    train, test = (Split(x[part], y[part]) for part in (slice(TRAIN_SAMPLES), slice(TRAIN_SAMPLES, None)))
    return DataSet(target, train, test, classes=None)


def is_valid(settings: Settings) -> bool:
    """Whether the U-Net exists at this depth; raises `UsageError` for an invalid depth or target."""
    depth, target = settings["depth"], settings["target"]
    if depth < 4 or depth % 2:
        raise UsageError(f"depth {depth}: these networks have an even number of weight layers, at least 4")
    if target not in TARGETS:
        raise UsageError(f"unknown target {target!r}: choose from {', '.join(TARGETS)}")
    return settings["variant"] != UNET or (depth in UNET_DEPTHS and target == "identity")


def estimated_cost(settings: Settings) -> float:
    """Proportional to depth and epochs."""
    return settings["depth"] * settings["recipe"]["epochs"] * (2 if settings["variant"] == UNET else 1)


COMPARISONS = (
    ("post", "pre-open", "a ReLU after every addition against none on the shortcuts"),
    ("pre", "pre-open", "one ReLU at the end against none on the shortcuts"),
    ("plain", "pre-open", "no shortcuts against shortcuts without a ReLU"),
    ("pre-open", "linear-skip", "shortcuts without a ReLU against no ReLU at all"),
    ("linear", "pre-open", "no ReLU and no shortcuts against shortcuts around ReLUs"),
)


def sentences(tables: Tables) -> Iterator[str]:
    """Which networks learn each target, and the effect of ReLUs, shortcuts and depth."""
    runs = tables["runs"]
    for target in distinct(runs, "target"):
        own = runs[runs["target"] == target]
        shallowest, deepest = depth_range(own)
        yield _learning_sentence(own, target, deepest)
        for a, b, what in COMPARISONS:
            errors = ratio(own, "test_error", network_key(a, deepest), network_key(b, deepest))
            if errors.count:
                yield f"Unexplained variance ({target}, {deepest} layers), {what}: {a} is {format_ratio(errors)} {b}."
        if shallowest < deepest:
            yield from _depth_sentences(own, target, deepest, shallowest)
        yield from _unet_sentences(own, target)
    yield from _gradient_sentences(runs)
    yield from _census_sentence(tables)


HARDER = (  # the first is harder to optimize than the second, claim and source
    (
        "plain",
        "post",
        "Solvers may have difficulties in approximating identity mappings by multiple nonlinear layers, and with "
        "shortcuts need only drive weights to zero.",
        "He et al. 2016, arXiv:1512.03385, §3.1",
    ),
    (
        "linear",
        "linear-skip",
        "Linear residual networks of any depth have no spurious local optima (near the identity), which for linear "
        "networks without shortcuts is more delicate.",
        "Hardt and Ma 2017, arXiv:1611.04231, §2",
    ),
)


def claims(tables: Tables) -> Iterator[Claim]:
    """Claims about the identity as the target."""
    runs = tables["runs"]
    runs = runs[runs["target"] == "identity"]
    if runs.empty:
        return
    shallowest, deepest = depth_range(runs)
    deeper = ratio(runs, "train_error", network_key("plain", deepest), network_key("plain", shallowest))
    if deepest > shallowest and deeper.count:
        yield Claim(
            claim="A deeper network could copy a shallower one and be the identity beyond it, yet its training "
            "error is higher.",
            source="He et al. 2016, arXiv:1512.03385, §1",
            found=f"unexplained variance of the training samples: plain-{deepest} is {format_ratio(deeper)} "
            f"plain-{shallowest}",
            agrees=agreement(deeper, "above", 1.0),
        )
    for a, b, claim, source in HARDER:
        errors = ratio(runs, "train_error", network_key(a, deepest), network_key(b, deepest))
        if errors.count:
            yield Claim(
                claim=claim,
                source=source,
                found=f"unexplained variance of the training samples: {a}-{deepest} is {format_ratio(errors)} "
                f"{b}-{deepest}",
                agrees=agreement(errors, "above", 1.0),
            )
    left = student(values_by_seed(runs, "test_error", network_key("plain", shallowest)))
    if left.count:
        yield Claim(
            claim="Fully connected networks cannot learn the identity reliably, even from 60,000 examples.",
            source="Zhang et al. 2020, arXiv:1902.04698, abstract",
            found=f"unexplained variance of new samples after {TRAIN_SAMPLES:,} samples: {format_percent(left)} in "
            f"plain-{shallowest} (yes: above 10 %)",
            agrees=agreement(left, "above", 0.1),
        )


def _learning_sentence(runs: pd.DataFrame, target: str, depth: int) -> str:
    """The unexplained variance of each network, from the best to the worst."""
    found = {
        name: student(values_by_seed(runs, "test_error", network_key(name, depth)))
        for name in distinct(runs[runs["depth"] == depth], "variant")
    }
    finished = {name: value for name, value in found.items() if value.count}
    ordered = sorted(finished.items(), key=lambda each: each[1].mean)
    parts = ", ".join(f"{name} {format_percent(value)}" for name, value in ordered)
    lost = [name for name in found if name not in finished]
    parts += f"; no run of {' or '.join(lost)} finished" if lost else ""
    what = "the identity" if target == "identity" else "a random orthogonal map"
    return f"Unexplained variance of {what} on new samples, {depth} layers: {parts}."


def _depth_sentences(runs: pd.DataFrame, target: str, deepest: int, shallowest: int) -> Iterator[str]:
    ratios = (
        (ratio(runs, "test_error", network_key(name, deepest), network_key(name, shallowest)), name)
        for name in distinct(runs, "variant")
    )
    words: dict[Sign, str] = {"above": "more in", "below": "less in", "neither": "no clear difference in"}
    if groups := group_by_sign((each for each in ratios if each[0].known), words, value=1.0):
        yield f"Unexplained variance ({target}), {deepest} layers compared with {shallowest}: {groups}."


def _unet_sentences(runs: pd.DataFrame, target: str) -> Iterator[str]:
    """The deepest U-Net, compared with the network of the same depth without a ReLU on the shortcuts."""
    own = runs[runs["variant"] == UNET]
    if own.empty:
        return
    _, depth = depth_range(own)
    left = format_percent(student(values_by_seed(runs, "test_error", network_key(UNET, depth))))
    errors = ratio(runs, "test_error", network_key(UNET, depth), network_key("pre-open", depth))
    comparison = f", {format_ratio(errors)} pre-open-{depth}" if errors.count else ""
    yield f"Unexplained variance of the U-Net of {depth} layers ({target}): {left}{comparison}."


def _gradient_sentences(runs: pd.DataFrame) -> Iterator[str]:
    own = runs[runs["target"] == next(iter(runs["target"]))]
    _, deepest = depth_range(own)
    for name in distinct(own, "variant"):
        norms = ratio(own, "first_gradient", network_key("plain", deepest), network_key(name, deepest))
        if name != "plain" and norms.count:
            yield (
                f"At initialization the first layer's gradient in plain-{deepest} is {format_ratio(norms)} that in "
                f"{name}-{deepest}."
            )


def _census_sentence(tables: Tables) -> Iterator[str]:
    census = tables["census"]
    """For the deepest networks of the grid, and the deepest U-Net."""
    _, deepest = depth_range(census)
    networks = [network_key(name, deepest) for name in distinct(census, "variant")]
    networks = [each for each in networks if len(select_rows(census, each))]
    own = census[census["variant"] == UNET]
    if len(own) and (network := network_key(UNET, depth_range(own)[1])) not in networks:
        networks.append(network)
    yield most_linear_path_sentence(census, networks)


UNEXPLAINED = Axis("test_error", "unexplained variance, new samples", "log")
FIRST_GRADIENT = Axis("first_gradient", "‖∂loss/∂weights‖, first layer", "log")
FIGURES = (
    Figure(
        name="unexplained-by-depth",
        heading="Unexplained variance",
        how="Share of the target's variance; 1 is as good as predicting its mean. One point per seed; the tick is "
        "their geometric mean, the line its 95 % interval (Student's t of the logarithm). A cross is a diverged run.",
        **points("runs", DEPTH, UNEXPLAINED, panel="target"),
    ),
    Figure(
        name="first-gradient",
        heading="Gradient of the first layer at initialization",
        how="Norm of the mean squared error's gradient with respect to the first layer's weights, before training.",
        **points("runs", DEPTH, FIRST_GRADIENT, where={"target": "identity"}),
    ),
    replace(
        CURVES_BY_DEPTH,
        heading="Training curves (identity)",
        how=f"{CURVES.how} Errors are unexplained shares of the variance.",
        where={"target": "identity"},
        folded=True,
    ),
    PATHS,
)

STUDY = Study.from_module(
    __name__,
    outcomes=(Axis("test_error", "unexplained", "share"), Axis("train_error", "in training", "share")),
    seed_invariant=("census",),
    is_valid=is_valid,
    estimated_cost=estimated_cost,
)
