"""Does the lowest layer receive gradient from the start?

Networks at initialization, untrained, in their training graph (batch norm uses batch statistics). `plain` has no skip
connections; `post-activation` (ResNet v1) adds the input before the last ReLU of each block, `pre-activation` (ResNet
v2) after it. Each is measured with batch norm, and with all batch norms removed. All have the same weights for each
seed, and the same images.

Hypothesis: with batch norm no gradient vanishes, not even in plain networks (He et al. 2016, arXiv:1512.03385, §4.1).
Without shortcuts it explodes toward the input (Yang et al. 2019, arXiv:1902.08129) and resembles noise (Balduzzi et al.
2017, arXiv:1702.08591). With shortcuts, short paths carry it (Veit et al. 2016, arXiv:1605.06431, §5).

Measured, by depth: the norm of each layer's gradient, and the ratio of the first layer's to the last convolution's; how
fast the input's gradient changes when the input moves; the number of branches on the paths that carry it.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd
from torch import nn
from torch.nn import functional as F

from skiplab import measure
from skiplab.analysis.finder import find
from skiplab.data import batches, digits
from skiplab.errors import DataError, UsageError
from skiplab.graph.capture import capture
from skiplab.models.resnet import resnet
from skiplab.report.figure_spec import Axis, Figure, lines
from skiplab.stats.intervals import Interval, paired, paired_ratio, student
from skiplab.study import networks
from skiplab.study.by_seed import depth_range, distinct, ratio, select_rows, values_by_seed
from skiplab.study.charts import GRADIENT, path_lengths
from skiplab.study.claims import Claim, agreement, negate
from skiplab.study.networks import PLAIN, VARIANTS, WIDTH
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.run_cell import SAMPLES, RunContext, build_with_seed, split_gradient
from skiplab.study.sentences import format_number, format_ratio, format_short

NORMS = ("batch", "none")
NEARBY = 0.01  # of the input's own norm: the distance at which correlations are compared
SHATTERED, SPLIT = 128, 64  # samples on which correlations and path lengths are measured
GRIDS = {
    "quick": Grid(axes={"depth": (8, 20, 56), "norm": NORMS}, seeds=5),
    "default": Grid(axes={"depth": (8, 20, 56, 110), "norm": NORMS}),
    "full": Grid(axes={"depth": (8, 20, 32, 56, 80, 110, 164), "norm": NORMS}, seeds=8),
}


def work(run: RunContext) -> Tables:
    """Measure the network of one variant, depth, normalization and seed at initialization."""
    model = build_with_seed(lambda: build(run.settings), run.settings["seed"])
    row = {"status": "ok", "parameters": sum(parameter.numel() for parameter in model.parameters())}
    try:
        found, tables = measure_gradient(model, run)
    except DataError:  # a gradient that is not finite
        found, tables = dict.fromkeys(OUTCOMES, float("nan")), {}
        row["status"] = "diverged"
    return {"runs": pd.DataFrame([row | found]), **tables}


def build(settings: Settings) -> nn.Module:
    """The network with its initial weights."""
    model = resnet(settings["depth"], width=WIDTH, in_channels=1, **VARIANTS[settings["variant"]])
    if settings["norm"] == "none":
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    module.add_module(name, nn.Identity())
    return model


OUTCOMES = ("first_gradient", "first_to_last", "correlation", "mean_length", "relative_length")


def measure_gradient(model: nn.Module, run: RunContext) -> tuple[dict[str, float], Tables]:
    """The outcomes of a network at initialization, and the tables they are computed from.

    first_gradient: norm of the first layer's gradient; first_to_last: its ratio to the last convolution's; correlation
    of the input's gradients at two inputs at a distance of `NEARBY`; mean_length: mean number of branches on a path,
    weighted by the path's share of the input's gradient; relative_length: mean_length / number of branches.
    """
    x, y = next(batches(digits().train, SAMPLES))
    program = capture(model, (x,), train=True)
    skips = find(program)
    gradient = measure.gradient(program, skips, [(x, y)], F.cross_entropy)
    run.report(0.3, "measuring shattering")
    shattering = measure.shattering(program, skips, [(x[:SHATTERED], y[:SHATTERED])], ["original"])
    tables: Tables = {"gradient": gradient.assign(when="initialization"), "shattering": shattering}
    first, *_, last, _ = gradient.loc[gradient["what"] == "weight", "gradient_norm"]  # the classifier comes last
    near = shattering.loc[shattering["distance"] == NEARBY, "correlation"]
    nan = float("nan")
    found: dict[str, float] = dict(zip(OUTCOMES, (first, first / last, float(near.iloc[0]), nan, nan), strict=True))
    if len(skips):
        run.report(0.5, "measuring path lengths")
        lengths = measure.lengths(program, skips, [(x[:SPLIT], y[:SPLIT])], F.cross_entropy)
        mean = float((lengths["length"] * lengths["weight"]).sum())
        found |= {"mean_length": mean, "relative_length": mean / len(skips)}
        tables["lengths"] = lengths.rename(columns={"norm": "gradient_norm", "norm_std": "gradient_norm_std"})
    return found, tables


def is_valid(settings: Settings) -> bool:
    """Whether the depth exists; raises `UsageError` for an unknown norm."""
    if settings["norm"] not in NORMS:
        raise UsageError(f"unknown norm {settings['norm']!r}: choose from {', '.join(NORMS)}")
    return networks.is_valid(settings)


def estimated_cost(settings: Settings) -> float:
    """Quadratic in depth for residual networks, since each path length takes one gradient."""
    return settings["depth"] * (60 + (settings["depth"] if settings["variant"] != PLAIN else 0))


def sentences(tables: Tables) -> Iterator[str]:
    """Growth with depth, then shattering and path lengths of the deepest networks of the grid."""
    runs = tables["runs"]
    shallowest, deepest = depth_range(runs)
    norms, variants = (distinct(runs, name) for name in ("norm", "variant"))
    if shallowest < deepest:
        for norm in norms:
            found = {variant: _growth_with_depth(runs, variant, (deepest, shallowest), norm) for variant in variants}
            yield (
                f"{_with_norm(norm).capitalize()}, the first layer's gradient at initialization with {deepest} "
                f"layers compared with {shallowest} layers: {_group_ratios(found)}."
            )
    for norm in norms:
        found = {variant: _first_to_last(runs, variant, deepest, norm) for variant in variants}
        yield (
            f"{_with_norm(norm).capitalize()}, {deepest} layers, the first layer's gradient compared with the last "
            f"convolution's: {_group_ratios(found)}."
        )
    for norm in norms:
        yield from _shattering_sentences(runs, variants, deepest, norm)
    for norm in norms:
        for variant in variants:
            if variant != PLAIN and "lengths" in tables:
                yield from _path_sentences(tables, variant, deepest, norm)


def claims(tables: Tables) -> Iterator[Claim]:
    """Claims about gradients at initialization, for the deepest networks with batch norm."""
    runs = tables["runs"]
    (shallowest, deepest), variants = depth_range(runs), set(runs["variant"])
    if "batch" not in set(runs["norm"]):
        return
    if PLAIN in variants:
        yield _vanishing_claim(runs, deepest)
    if PLAIN in variants and shallowest < deepest:
        found = _per_layer(_growth_with_depth(runs, PLAIN, (deepest, shallowest), "batch"), deepest - shallowest)
        yield Claim(
            claim="In networks with batch norm and without skip connections, gradients grow exponentially with "
            "depth toward the input, whatever the initial variance of the weights.",
            source="Yang et al. 2019, arXiv:1902.08129, abstract",
            found=f"the first layer's gradient grows {format_number(found)} times per layer of depth between "
            f"{PLAIN}-{shallowest} and {PLAIN}-{deepest}",
            agrees=agreement(found, "above", 1.0),
        )
    for variant in sorted(variants - {PLAIN}) if PLAIN in variants else ():
        other, plain = (
            values_by_seed(runs, "correlation", _network_key(each, deepest, "batch")) for each in (variant, PLAIN)
        )
        yield Claim(
            claim="The gradients of deep plain networks resemble white noise; those of networks with skip "
            "connections are far more resistant to shattering.",
            source="Balduzzi et al. 2017, arXiv:1702.08591, abstract",
            found=f"correlation at a distance of {100 * NEARBY:g} %: {format_number(student(other))} in "
            f"{variant}-{deepest}, {format_number(student(plain))} in {PLAIN}-{deepest}",
            agrees=agreement(paired(other, plain), "above"),
        )
    for variant in sorted(variants - {PLAIN}):
        found = student(values_by_seed(runs, "relative_length", _network_key(variant, deepest, "batch")))
        yield Claim(
            claim="Short paths carry the gradient of a residual network: of 54 blocks, those through 5 to 17 carry "
            "most of it, though the average path goes through half (in a trained network).",
            source="Veit et al. 2016, arXiv:1605.06431, §5",
            found=f"at initialization its paths go through {format_number(found)} of the branches of "
            f"{variant}-{deepest} on average",
            agrees=agreement(found, "below", 0.5),
        )


def _group_ratios(found: dict[str, Interval]) -> str:
    """Variants grouped by the sign of a ratio's interval against 1: "larger in plain (9 times, …)"."""
    parts: dict[str, list[str]] = {"larger in": [], "smaller in": [], "no clear difference in": []}
    for variant, growth in found.items():
        if not growth.known:
            parts["no clear difference in"].append(f"{variant} (fewer than two seeds to compare)")
            continue
        larger = growth.mean >= 1
        mean, *ends = (end if larger else 1 / end for end in (growth.mean, growth.low, growth.high))
        low, high = sorted(ends)
        clear = growth.excludes(1)
        group = "no clear difference in" if not clear else "larger in" if larger else "smaller in"
        word = "" if clear else " larger" if larger else " smaller"
        interval = f"95 % interval {format_short(low)} to {format_short(high)}"
        parts[group].append(f"{variant} ({format_short(mean)} times{word}, {interval})")
    return "; ".join(f"{group} {', '.join(names)}" for group, names in parts.items() if names)


def _shattering_sentences(runs: pd.DataFrame, variants: list[str], depth: int, norm: str) -> Iterator[str]:
    """Correlation of the gradients at two nearby inputs, and the effect of skip connections on it."""
    values = {variant: values_by_seed(runs, "correlation", _network_key(variant, depth, norm)) for variant in variants}
    parts = ", ".join(f"{format_number(student(series))} in {variant}-{depth}" for variant, series in values.items())
    yield (
        f"{_with_norm(norm).capitalize()}, correlation of the gradients at an input and at one {100 * NEARBY:g} % of "
        f"its norm away: {parts} (1: smooth, 0: white noise)."
    )
    for variant in variants if PLAIN in variants else ():
        change = paired(values[variant], values[PLAIN])
        if variant != PLAIN and change.known:
            answer = "higher" if change.low > 0 else "lower" if change.high < 0 else "no clear difference"
            interval = f"{change.mean:+.2g}, 95 % interval {change.low:+.2g} to {change.high:+.2g}, paired by seed"
            yield (
                f"{_with_norm(norm).capitalize()}, this correlation in {variant} compared with {PLAIN}: {answer} "
                f"({interval})."
            )


def _path_sentences(tables: Tables, variant: str, depth: int, norm: str) -> Iterator[str]:
    """The number of branches on the paths that carry the gradient."""
    where = _network_key(variant, depth, norm)
    found = student(values_by_seed(tables["runs"], "mean_length", where))
    lengths = tables["lengths"]
    own = select_rows(lengths, where)
    if own.empty:
        return
    mean = own.groupby("length", as_index=False)[["weight"]].mean()
    (low, high), blocks = measure.band(mean), int(own["length"].max())
    yield (
        f"{_with_norm(norm).capitalize()}, paths through {format_number(found)} of {blocks} branches on average "
        f"carry the input's gradient in {variant}-{depth}, 95 % of it through {low} to {high}; {blocks / 2:g} if all "
        "paths carried equal shares."
    )


def _vanishing_claim(runs: pd.DataFrame, depth: int) -> Claim:
    found = _first_to_last(runs, PLAIN, depth, "batch")
    return Claim(
        claim="With batch norm, neither forward nor backward signals of plain networks vanish.",
        source="He et al. 2016, arXiv:1512.03385, §4.1",
        found=f"the first layer's gradient in {PLAIN}-{depth} is {format_ratio(found)} the last convolution's",
        agrees=negate(agreement(found, "below", 1.0)),
    )


def _network_key(variant: str, depth: int, norm: str) -> dict[str, Any]:
    return {"variant": variant, "depth": depth, "norm": norm}


def _first_to_last(runs: pd.DataFrame, variant: str, depth: int, norm: str) -> Interval:
    values = values_by_seed(runs, "first_to_last", _network_key(variant, depth, norm))
    return paired_ratio(values, pd.Series(1.0, values.index))


def _growth_with_depth(runs: pd.DataFrame, variant: str, depths: tuple[int, int], norm: str) -> Interval:
    """Ratio of the first layer's gradient at the first depth to that at the second, paired by seed."""
    deep, shallow = (_network_key(variant, depth, norm) for depth in depths)
    return ratio(runs, "first_gradient", deep, shallow)


def _per_layer(growth: Interval, layers: int) -> Interval:
    """The growth per layer: the root of order `layers`."""
    mean, low, high = (end ** (1 / layers) for end in (growth.mean, growth.low, growth.high))
    return Interval(mean, low, high, growth.count)


def _with_norm(norm: str) -> str:
    return "with batch norm" if norm == "batch" else "without normalization"


LAYERS = Axis("depth", "weight layers")
LOWEST = (
    Axis("first_gradient", "‖∂loss/∂weights‖ of the first layer", "log"),
    Axis("first_to_last", "first layer / last convolution", "log"),
)
DISTANCE, CORRELATION = Axis("distance", "distance / norm of the input", "log"), Axis("correlation", "correlation")
WITH_NORM = {"norm": "batch"}
FIGURES = (
    Figure(
        name="lowest-layer",
        heading="The first layer's gradient by depth",
        how="At initialization. Thin lines are seeds, the thick line is their geometric mean, the band its 95 % "
        "interval. Top: the norm. Bottom: its ratio to that of the last convolution, where 1 means equal. A network "
        "without normalization may have a ratio of 1 and still have vanishing or exploding gradients in all layers.",
        **lines("runs", LAYERS, *LOWEST, panel="norm"),
    ),
    replace(GRADIENT, name="by-layer-batch", heading="Gradient by layer, with batch norm", where=WITH_NORM),
    replace(
        GRADIENT,
        name="by-layer-none",
        heading="Gradient by layer, without normalization",
        how="As above, with all batch norms removed.",
        where={"norm": "none"},
    ),
    Figure(
        name="shattering-by-depth",
        heading="Shattering by depth",
        how=f"Correlation of the input's gradients at an input and at one {100 * NEARBY:g} % of its norm away: 1 is "
        "smooth, 0 is white noise, which gives an optimizer no direction.",
        **lines("runs", LAYERS, CORRELATION, panel="norm"),
    ),
    Figure(
        name="shattering-by-distance",
        heading="Shattering by distance, with batch norm",
        how="The same correlation by the distance between the inputs, one chart per depth.",
        **lines("shattering", DISTANCE, CORRELATION, panel="depth", where=WITH_NORM),
    ),
    path_lengths(
        "Share of the input's gradient (by norm) carried by all paths with a given number of branches, at "
        "initialization; computed exactly. Most paths go through half of all branches.",
        heading="Paths that carry the gradient, with batch norm",
        where=WITH_NORM,
    ),
)

STUDY = Study.from_module(
    __name__,
    outcomes=(
        Axis("first_gradient", "first layer", "log"),
        Axis("first_to_last", "first/last", "log"),
        CORRELATION,
        Axis("mean_length", "path length"),
    ),
    postprocess=split_gradient,
    is_valid=is_valid,
    estimated_cost=estimated_cost,
)
