"""Can a deep network learn the identity, or a linear map? Does a nonlinearity on every path make that harder?

Fully connected networks that differ in where a ReLU lies between input and output: on every path and many times
(`plain`, without shortcuts; `post`, after every addition), on every path once (`pre`, which ends in one), on no
shortcut (`pre-open`, the same without that last one), or nowhere at all (`linear` without shortcuts and
`linear-skip` with them). A `unet` is there for its long skips: for images, so only for the identity, and with a ReLU
before and behind every one of them. Inputs are normal samples, with as many for every pixel; a ReLU network of twice
their size can be the identity exactly, so that what is not learned is not for want of expression. Shortcuts join with
a learned factor that begins at 0 (ReZero), since without norm a sum would double its variance at every block, and
with batch norm its noise would lie on the output.

Hypothesis: layers that could be the identity do not become it by training (the construction argument of He et al.
2016, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, §1 and §3.1); linear residual networks are
easy to optimize at any depth (Hardt and Ma 2017, "Identity Matters in Deep Learning", arXiv:1611.04231, §2); fully
connected networks do not learn the identity from examples (Zhang et al. 2020, "Identity Crisis", arXiv:1902.04698).
What is measured is the share of the target's variance that is left unexplained on new samples (1 − R²), the first
layer's gradient at initialization, and the nonlinearities on the lightest path.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from skiplab.data import DataSet, Split
from skiplab.errors import UsageError
from skiplab.models.mlp import mlp
from skiplab.models.unet import unet
from skiplab.report.figure_spec import Axis, Figure
from skiplab.stats.intervals import Interval, paired_ratio, student
from skiplab.study.charts import CURVES
from skiplab.study.claims import Claim, agreement
from skiplab.study.grid import Report
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.run_cell import (
    RunContext,
    build_with_seed,
    measure_gradients,
    measure_structure,
    save_tables,
    train_network,
)
from skiplab.study.sentences import (
    Sign,
    format_percent,
    format_ratio,
    group_by_sign,
    most_linear_path_sentence,
    select_rows,
    values_by_seed,
)
from skiplab.training.fit import Recipe

UNET = "unet"
VARIANTS: dict[str, Any] = {  # options of `mlp`
    "plain": {"skip": None},
    "post": {"placement": "post", "combine": "rezero"},
    "pre": {"placement": "pre", "combine": "rezero"},
    "pre-open": {"placement": "pre", "combine": "rezero", "last": "none"},
    "linear": {"skip": None, "activation": None},
    "linear-skip": {"activation": None, "combine": "rezero"},
}
TARGETS = ("identity", "orthogonal")
SIDE = 8  # an input is an image of 8×8 numbers, or a vector of 64
TRAIN_SAMPLES, TEST_SAMPLES = 2048, 512  # samples
UNET_DEPTHS = {8: 1, 18: 3}  # weight layers of a U-Net on such an image, and how often it halves that
RECIPE = Recipe(
    epochs=12, batch_size=64, learning_rate=1e-3, weight_decay=0.0, warmup_epochs=1.0, optimizer="adamw", judged=256
)
GRIDS = {
    "quick": Grid(axes={"depth": (8, 18), "target": TARGETS}, recipe=replace(RECIPE, epochs=8)),
    "default": Grid(axes={"depth": (8, 18, 50), "target": TARGETS}, recipe=RECIPE),
    "full": Grid(axes={"depth": (8, 18, 50), "target": TARGETS}, seeds=5, recipe=RECIPE),
}


def work(settings: Settings, folder: Path, report: Report) -> None:
    """A network of one variant, depth and seed, of which the samples and the map are as well."""
    variant, depth, seed = settings["variant"], settings["depth"], settings["seed"]
    data = make_data(settings["target"], seed, images=variant == UNET)
    model = build_with_seed(lambda: build(variant, depth), seed)
    gradient = measure_gradients(model, data)
    first = gradient[gradient["what"] == "weight"].sort_values("order").iloc[0]
    tables, _ = train_network(model, data, RunContext(settings, folder, report))
    runs = tables["runs"].assign(first_gradient=float(first["gradient_norm"]))
    save_tables({**tables, "runs": runs, "census": measure_structure(model, data)["census"]}, folder)


def build(variant: str, depth: int) -> nn.Module:
    if variant == UNET:
        return unet(depth=UNET_DEPTHS[depth], width=SIDE, num_classes=1)
    size = SIDE * SIDE
    return mlp(depth, 2 * size, in_features=size, out_features=size, **VARIANTS[variant])


def make_data(target: str, seed: int, *, images: bool) -> DataSet:
    """Normal samples x (N, 1, 8, 8), and y either x or x turned by a random orthogonal matrix.

    y is (N, 64), or for `images` (N, 1, 8, 8). The matrix is uniformly distributed: Q of a normal matrix's QR.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(TRAIN_SAMPLES + TEST_SAMPLES, 1, SIDE, SIDE, generator=generator)
    y = x.flatten(1)
    if target == "orthogonal":
        q, r = torch.linalg.qr(torch.randn(SIDE * SIDE, SIDE * SIDE, generator=generator))
        y = y @ (q * r.diagonal().sign()).T
    y = y.reshape(x.shape) if images else y
    return DataSet(
        target, Split(x[:TRAIN_SAMPLES], y[:TRAIN_SAMPLES]), Split(x[TRAIN_SAMPLES:], y[TRAIN_SAMPLES:]), classes=None
    )


def is_valid(settings: Settings) -> bool:
    depth, target = settings["depth"], settings["target"]
    if depth < 4 or depth % 2:
        raise UsageError(f"depth {depth}: these networks have an even number of weight layers, at least 4")
    if target not in TARGETS:
        raise UsageError(f"target {target}: choose from {', '.join(TARGETS)}")
    return settings["variant"] != UNET or (depth in UNET_DEPTHS and target == "identity")


def estimated_cost(settings: Settings) -> float:
    return settings["depth"] * settings["recipe"]["epochs"] * (2 if settings["variant"] == UNET else 1)


def sentences(tables: Tables) -> Iterator[str]:
    """For each target at the deepest networks: who learns it, and what nonlinearities, shortcuts and depth do."""
    runs = tables["runs"]
    for target in dict.fromkeys(runs["target"]):
        own = runs[runs["target"] == target]
        deepest, shallowest = int(own["depth"].max()), int(own["depth"].min())
        yield _learning_sentence(own, target, deepest)
        for a, b, what in (
            ("post", "pre-open", "A ReLU after every addition against none on the shortcuts"),
            ("pre", "pre-open", "One ReLU at the end against none on the shortcuts"),
            ("plain", "pre-open", "No shortcuts against shortcuts without a ReLU"),
            ("pre-open", "linear-skip", "Shortcuts without a ReLU against no ReLU anywhere"),
            ("linear", "pre-open", "No ReLU but no shortcuts against shortcuts around ReLUs"),
        ):
            ratio = _error_ratio(own, (a, deepest), (b, deepest))
            if ratio.count:
                left = f"what {a} leaves unexplained is {format_ratio(ratio)} what {b} does."
                yield f"{what} ({target}, {deepest} layers): {left}"
        if shallowest < deepest:
            yield from _depth_sentences(own, target, deepest, shallowest)
        yield from _unet_sentences(own, target)
    yield from _gradient_sentences(runs)
    yield from _census_sentence(tables)


HARDER = (  # than which to optimize, as which paper claims
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
    runs = tables["runs"]
    runs = runs[runs["target"] == "identity"]
    if runs.empty:
        return
    deepest, shallowest = int(runs["depth"].max()), int(runs["depth"].min())
    deeper = _error_ratio(runs, ("plain", deepest), ("plain", shallowest), "train_error")
    if deepest > shallowest and deeper.count:
        yield Claim(
            claim="A deeper network could copy a shallower one and be the identity beyond it, yet its training "
            "error is higher.",
            source="He et al. 2016, arXiv:1512.03385, §1",
            found=f"what plain-{deepest} leaves unexplained of the training samples is {format_ratio(deeper)} what "
            f"plain-{shallowest} does",
            agrees=agreement(deeper, "above", 1.0),
        )
    for a, b, claim, source in HARDER:
        ratio = _error_ratio(runs, (a, deepest), (b, deepest), "train_error")
        if ratio.count:
            left = f"what {a}-{deepest} leaves unexplained of the training samples"
            found = f"{left} is {format_ratio(ratio)} what {b}-{deepest} does"
            yield Claim(claim=claim, source=source, found=found, agrees=agreement(ratio, "above", 1.0))
    left = student(values_by_seed(runs, "test_error", {"variant": "plain", "depth": shallowest}))
    if left.count:
        yield Claim(
            claim="Fully connected networks cannot learn the identity reliably, even from 60,000 examples.",
            source="Zhang et al. 2020, arXiv:1902.04698, abstract",
            found=f"plain-{shallowest} leaves {format_percent(left)} of the variance of new samples unexplained "
            f"after {TRAIN_SAMPLES:,} samples; 'yes' if more than a tenth",
            agrees=agreement(left, "above", 0.1),
        )


def _error_ratio(runs: pd.DataFrame, a: tuple[str, int], b: tuple[str, int], column: str = "test_error") -> Interval:
    """Of the one (variant, depth) to the other, paired by seed."""
    one, other = (values_by_seed(runs, column, {"variant": variant, "depth": depth}) for variant, depth in (a, b))
    return paired_ratio(one, other)


def _learning_sentence(runs: pd.DataFrame, target: str, depth: int) -> str:
    """From the best to the worst, with the share that each leaves."""
    found = {
        name: student(values_by_seed(runs, "test_error", {"variant": name, "depth": depth}))
        for name in dict.fromkeys(runs[runs["depth"] == depth]["variant"])
    }
    finished = {name: value for name, value in found.items() if value.count}
    told = ", ".join(
        f"{name} {format_percent(value)}" for name, value in sorted(finished.items(), key=lambda x: x[1].mean)
    )
    lost = [name for name in found if name not in finished]
    told += f"; no run of {' or '.join(lost)} finished" if lost else ""
    what = "the identity" if target == "identity" else "a random orthogonal map"
    return f"Of {what}, networks of {depth} layers leave unexplained on new samples: {told}."


def _depth_sentences(runs: pd.DataFrame, target: str, deepest: int, shallowest: int) -> Iterator[str]:
    ratios = (
        (_error_ratio(runs, (name, deepest), (name, shallowest)), name) for name in dict.fromkeys(runs["variant"])
    )
    words: dict[Sign, str] = {"above": "more:", "below": "less:", "neither": "not shown to differ:"}
    if told := group_by_sign((each for each in ratios if each[0].known), words, value=1.0):
        yield f"With {deepest} layers against {shallowest} ({target}), what is left unexplained is {told}."


def _unet_sentences(runs: pd.DataFrame, target: str) -> Iterator[str]:
    """The deepest U-Net against the network of as many layers whose shortcuts have no ReLU."""
    depths = runs[runs["variant"] == UNET]["depth"]
    if depths.empty:
        return
    depth = int(depths.max())
    left = format_percent(student(values_by_seed(runs, "test_error", {"variant": UNET, "depth": depth})))
    ratio = _error_ratio(runs, (UNET, depth), ("pre-open", depth))
    beside = f", {format_ratio(ratio)} what pre-open-{depth} does" if ratio.count else ""
    yield f"The U-Net of {depth} layers leaves {left} unexplained ({target}){beside}."


def _gradient_sentences(runs: pd.DataFrame) -> Iterator[str]:
    own = runs[runs["target"] == next(iter(runs["target"]))]
    deepest = int(own["depth"].max())
    for name in dict.fromkeys(own["variant"]):
        ratio = _error_ratio(own, ("plain", deepest), (name, deepest), "first_gradient")
        if name != "plain" and ratio.count:
            yield (
                f"At initialization the first layer's gradient in plain-{deepest} is {format_ratio(ratio)} that in "
                f"{name}-{deepest}."
            )


def _census_sentence(tables: Tables) -> Iterator[str]:
    census = tables["census"]
    deepest = int(census["depth"].max())
    there = [{"variant": name, "depth": deepest} for name in dict.fromkeys(census["variant"])]
    there = [each for each in there if len(select_rows(census, each))]
    if UNET in set(census["variant"]) and {"variant": UNET, "depth": deepest} not in there:
        own = census[census["variant"] == UNET]
        there.append({"variant": UNET, "depth": int(own["depth"].max())})
    yield most_linear_path_sentence(census, there)


UNEXPLAINED = Axis("test_error", "variance unexplained, new samples", "log")
ON_STEPS = Axis("depth", "weight layers", "steps")
FIGURES = (
    Figure(
        name="unexplained-by-depth",
        heading="What is left unexplained",
        how="Share of the target's variance, 1 being no better than its mean. One point a seed; the tick is their "
        "geometric mean, the line its 95 % interval (Student's t of the logarithm). A cross is a run that diverged.",
        chart="points",
        table="runs",
        x=ON_STEPS,
        y=(UNEXPLAINED,),
        panel="target",
    ),
    Figure(
        name="first-gradient",
        heading="Gradient of the first layer at initialization",
        how="Norm of the mean squared error's gradient with respect to the first layer's weights, before training.",
        chart="points",
        table="runs",
        x=ON_STEPS,
        y=(Axis("first_gradient", "‖∂loss/∂weights‖, first layer", "log"),),
        where={"target": "identity"},
    ),
    replace(
        CURVES,
        heading="Training curves (identity)",
        how=f"{CURVES.how} Errors are shares of the variance that are left unexplained.",
        panel="depth",
        where={"target": "identity"},
        folded=True,
    ),
    Figure(
        name="census-numbers",
        heading="Nonlinearities on paths",
        how="Exact counts.",
        chart="table",
        table="census",
        folded=True,
    ),
)

STUDY = Study(
    name="identity",
    variants=(*VARIANTS, UNET),
    grids=GRIDS,
    work=work,
    sentences=sentences,
    figures=FIGURES,
    claims=claims,
    outcomes=(Axis("test_error", "unexplained", "share"), Axis("train_error", "in training", "share")),
    seed_invariant=("census",),
    is_valid=is_valid,
    estimated_cost=estimated_cost,
    text=__doc__,
)
