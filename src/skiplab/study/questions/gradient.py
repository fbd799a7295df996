"""Does the lowest layer receive gradient from the start?

Networks at initialization, in their training graph (batch norm uses the batch's statistics), untrained. `plain` has
no skip connections, `post-activation` adds the input back before the last ReLU of each block (ResNet v1),
`pre-activation` after it (ResNet v2); each with batch norm and with every batch norm left out. Same weights for each
seed, same images.

Hypothesis: with batch norm nothing vanishes, in plain networks either (He et al. 2016, arXiv:1512.03385, §4.1);
without shortcuts it explodes toward the input (Yang et al. 2019, arXiv:1902.08129) and turns into noise
(Balduzzi et al. 2017, arXiv:1702.08591); with them it comes by short paths (Veit et al. 2016, arXiv:1605.06431, §5).

Measured, by depth: the norm of each layer's gradient, and that of the lowest layer against the last convolution's;
how fast the input's gradient changes when the input moves; how many branches the paths go through that carry it.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
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
from skiplab.report.figure_spec import Axis, Figure
from skiplab.stats.intervals import Interval, paired, paired_ratio, student
from skiplab.study import networks
from skiplab.study.charts import GRADIENT
from skiplab.study.claims import Claim, agreement, negate
from skiplab.study.grid import Report
from skiplab.study.networks import PLAIN, VARIANTS, WIDTH
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.run_cell import SAMPLES, build_with_seed, save_tables, split_gradient
from skiplab.study.sentences import format_number, format_ratio, format_short, select_rows, values_by_seed

NORMS = ("batch", "none")
NEARBY = 0.01  # of the input's own norm: the distance at which correlations are compared
SHATTERED, SPLIT = 128, 64  # samples on which correlations and path lengths are measured
GRIDS = {
    "quick": Grid(axes={"depth": (8, 20, 56), "norm": NORMS}, seeds=5),
    "default": Grid(axes={"depth": (8, 20, 56, 110), "norm": NORMS}),
    "full": Grid(axes={"depth": (8, 20, 32, 56, 80, 110, 164), "norm": NORMS}, seeds=8),
}


def work(settings: Settings, folder: Path, report: Report) -> None:
    """A network of one variant, depth, normalization and seed, as it begins."""
    model = build_with_seed(lambda: build(settings), settings["seed"])
    row = {"status": "ok", "parameters": sum(parameter.numel() for parameter in model.parameters())}
    try:
        found, tables = measure_gradient(model, report)
    except DataError:  # a gradient that is no number
        found, tables = dict.fromkeys(OUTCOMES, float("nan")), {}
        row["status"] = "diverged"
    save_tables({"runs": pd.DataFrame([row | found]), **tables}, folder)


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


def measure_gradient(model: nn.Module, report: Report) -> tuple[dict[str, float], Tables]:
    """The outcomes of a network at initialization, and what they are computed from.

    first_gradient: norm of the first layer's; first_to_last: over that of the last convolution; correlation of the
    input's gradient with that at a distance of `NEARBY`; mean_length: branches on the average path that carries
    the input's gradient, weighted by what each length carries; relative_length: over the number of branches.
    """
    x, y = next(batches(digits().train, SAMPLES))
    program = capture(model, (x,), train=True)
    skips = find(program)
    gradient = measure.gradient(program, skips, [(x, y)], F.cross_entropy)
    report(0.3, "how it shatters")
    shattering = measure.shattering(program, skips, [(x[:SHATTERED], y[:SHATTERED])], ["original"])
    tables: Tables = {"gradient": gradient.assign(when="initialization"), "shattering": shattering}
    first, *_, last, _ = gradient.loc[gradient["what"] == "weight", "gradient_norm"]  # the classifier comes last
    near = shattering.loc[shattering["distance"] == NEARBY, "correlation"]
    nan = float("nan")
    found: dict[str, float] = dict(zip(OUTCOMES, (first, first / last, float(near.iloc[0]), nan, nan), strict=True))
    if len(skips):
        report(0.5, "by which paths it comes")
        lengths = measure.lengths(program, skips, [(x[:SPLIT], y[:SPLIT])], F.cross_entropy)
        mean = float((lengths["length"] * lengths["weight"]).sum())
        found |= {"mean_length": mean, "relative_length": mean / len(skips)}
        tables["lengths"] = lengths.rename(columns={"norm": "gradient_norm", "norm_std": "gradient_norm_std"})
    return found, tables


def is_valid(settings: Settings) -> bool:
    if settings["norm"] not in NORMS:
        raise UsageError(f"norm {settings['norm']!r}: choose of {', '.join(NORMS)}")
    return networks.is_valid(settings)


def estimated_cost(settings: Settings) -> float:
    """A gradient for each path length makes it quadratic."""
    return settings["depth"] * (60 + (settings["depth"] if settings["variant"] != PLAIN else 0))


def sentences(tables: Tables) -> Iterator[str]:
    """What the numbers say, for the deepest networks of the grid unless the sentence says otherwise."""
    runs = tables["runs"]
    deepest, shallowest = int(runs["depth"].max()), int(runs["depth"].min())
    norms, variants = (list(dict.fromkeys(runs[name])) for name in ("norm", "variant"))
    if shallowest < deepest:
        for norm in norms:
            found = {variant: _growth_with_depth(runs, variant, (deepest, shallowest), norm) for variant in variants}
            yield (
                f"{_with_norm(norm).capitalize()}, the lowest of {deepest} layers receives from the start a gradient "
                f"that is, beside that of the lowest of {shallowest}, {_group_ratios(found)}."
            )
    for norm in norms:
        found = {variant: _first_to_last(runs, variant, deepest, norm) for variant in variants}
        yield (
            f"{_with_norm(norm).capitalize()}, the lowest layer's gradient is, beside the last convolution's in the "
            f"same network of {deepest} layers, {_group_ratios(found)}."
        )
    for norm in norms:
        yield from _shattering_sentences(runs, variants, deepest, norm)
    for norm in norms:
        for variant in variants:
            if variant != PLAIN and "lengths" in tables:
                yield from _path_sentences(tables, variant, deepest, norm)


def claims(tables: Tables) -> Iterator[Claim]:
    runs = tables["runs"]
    variants, deepest, shallowest = set(runs["variant"]), int(runs["depth"].max()), int(runs["depth"].min())
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
            found=f"the lowest layer's gradient grows {format_number(found)} times with each layer of depth between "
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
            claim="The gradient of a residual network comes by short paths: of 54 blocks, those through 5 to 17 "
            "carry most of it, though the average path goes through half (in a trained network).",
            source="Veit et al. 2016, arXiv:1605.06431, §5",
            found=f"at initialization it comes through {format_number(found)} of the branches of {variant}-{deepest} "
            "on average",
            agrees=agreement(found, "below", 0.5),
        )


def _group_ratios(found: dict[str, Interval]) -> str:
    """Variants by whether a ratio is shown to be above or below 1: "larger in plain (9 times, …)"."""
    parts: dict[str, list[str]] = {"larger in": [], "smaller in": [], "not shown to differ in": []}
    for variant, ratio in found.items():
        if not ratio.known:
            parts["not shown to differ in"].append(f"{variant} (fewer than two seeds to compare)")
            continue
        upwards = ratio.mean >= 1
        mean, *ends = (end if upwards else 1 / end for end in (ratio.mean, ratio.low, ratio.high))
        low, high = sorted(ends)
        shown = ratio.excludes(1)
        word = "not shown to differ in" if not shown else "larger in" if upwards else "smaller in"
        way = "" if shown else " larger" if upwards else " smaller"
        parts[word].append(
            f"{variant} ({format_short(mean)} times{way}, 95 % interval {format_short(low)} to {format_short(high)})"
        )
    return "; ".join(f"{word} {', '.join(names)}" for word, names in parts.items() if names)


def _shattering_sentences(runs: pd.DataFrame, variants: list[str], depth: int, norm: str) -> Iterator[str]:
    """How alike the gradients of neighboring inputs are, and whether skips make them more so."""
    values = {variant: values_by_seed(runs, "correlation", _network_key(variant, depth, norm)) for variant in variants}
    parts = ", ".join(f"{format_number(student(series))} in {variant}-{depth}" for variant, series in values.items())
    yield (
        f"{_with_norm(norm).capitalize()}, when the input moves by {100 * NEARBY:g} % of its norm, its gradient "
        f"keeps a correlation of {parts} (1 is smooth, 0 white noise)."
    )
    for variant in variants if PLAIN in variants else ():
        change = paired(values[variant], values[PLAIN])
        if variant != PLAIN and change.known:
            shown = "differ" if change.excludes(0) else "are not shown to differ"
            interval = f"{change.mean:+.2g}, 95 % interval {change.low:+.2g} to {change.high:+.2g}"
            yield (
                f"{_with_norm(norm).capitalize()}, {variant} and {PLAIN} {shown} in that ({interval}, paired by seed)."
            )


def _path_sentences(tables: Tables, variant: str, depth: int, norm: str) -> Iterator[str]:
    """Through how many branches the gradient comes."""
    where = _network_key(variant, depth, norm)
    found = student(values_by_seed(tables["runs"], "mean_length", where))
    lengths = tables["lengths"]
    own = select_rows(lengths, where)
    if own.empty:
        return
    mean = own.groupby("length", as_index=False)[["weight"]].mean()
    (low, high), blocks = measure.band(mean), int(own["length"].max())
    yield (
        f"{_with_norm(norm).capitalize()}, the input's gradient in {variant}-{depth} comes through "
        f"{format_number(found)} of {blocks} branches on average, 95 % of it through {low} to {high}; if all paths "
        f"carried alike, it would be {blocks / 2:g}."
    )


def _vanishing_claim(runs: pd.DataFrame, depth: int) -> Claim:
    found = _first_to_last(runs, PLAIN, depth, "batch")
    return Claim(
        claim="With batch norm, neither forward nor backward signals of plain networks vanish.",
        source="He et al. 2016, arXiv:1512.03385, §4.1",
        found=f"the lowest layer's gradient in {PLAIN}-{depth} is {format_ratio(found)} the last convolution's",
        agrees=negate(agreement(found, "below", 1.0)),
    )


def _network_key(variant: str, depth: int, norm: str) -> dict[str, Any]:
    return {"variant": variant, "depth": depth, "norm": norm}


def _first_to_last(runs: pd.DataFrame, variant: str, depth: int, norm: str) -> Interval:
    ratio = values_by_seed(runs, "first_to_last", _network_key(variant, depth, norm))
    return paired_ratio(ratio, pd.Series(1.0, ratio.index))


def _growth_with_depth(runs: pd.DataFrame, variant: str, depths: tuple[int, int], norm: str) -> Interval:
    """How many times the lowest layer's gradient of the first depth is that of the second, paired by seed."""
    deep, shallow = (values_by_seed(runs, "first_gradient", _network_key(variant, depth, norm)) for depth in depths)
    return paired_ratio(deep, shallow)


def _per_layer(growth: Interval, layers: int) -> Interval:
    """The factor for each of so many layers."""
    mean, low, high = (end ** (1 / layers) for end in (growth.mean, growth.low, growth.high))
    return Interval(mean, low, high, growth.count)


def _with_norm(norm: str) -> str:
    return "with batch norm" if norm == "batch" else "without normalization"


DEPTH = Axis("depth", "weight layers")
FIGURES = (
    Figure(
        name="lowest-layer",
        heading="The lowest layer's gradient by depth",
        how="At initialization; thin lines are seeds, the thick one their geometric mean, the band its 95 % interval. "
        "Above its norm, below its ratio to that of the last convolution: 1 is level. A network without normalization "
        "may be level and yet have next to no gradient anywhere, or far too much.",
        chart="lines",
        table="runs",
        x=DEPTH,
        y=(
            Axis("first_gradient", "‖∂loss/∂weights‖ of the first layer", "log"),
            Axis("first_to_last", "first layer over last convolution", "log"),
        ),
        panel="norm",
    ),
    replace(GRADIENT, name="by-layer-batch", heading="Gradient by layer, with batch norm", where={"norm": NORMS[0]}),
    replace(
        GRADIENT,
        name="by-layer-none",
        heading="Gradient by layer, without normalization",
        how="As above, every batch norm left out.",
        where={"norm": NORMS[1]},
    ),
    Figure(
        name="shattering-by-depth",
        heading="Shattering by depth",
        how=f"Correlation of the input's gradient with that at an input {100 * NEARBY:g} % of its norm away: 1 is "
        "smooth, 0 is white noise, from which no optimizer can tell where to go.",
        chart="lines",
        table="runs",
        x=DEPTH,
        y=(Axis("correlation", "correlation"),),
        panel="norm",
    ),
    Figure(
        name="shattering-by-distance",
        heading="Shattering by distance, with batch norm",
        how="The same correlation for inputs ever farther away, a chart for each depth.",
        chart="lines",
        table="shattering",
        x=Axis("distance", "distance, of the input's norm", "log"),
        y=(Axis("correlation", "correlation"),),
        panel="depth",
        where={"norm": NORMS[0]},
    ),
    Figure(
        name="path-lengths",
        heading="Which paths carry the gradient, with batch norm",
        how="Share of the input's gradient (by norm) that all paths through exactly so many branches carry "
        "together, at initialization; computed exactly. Most paths go through half of all branches.",
        chart="lines",
        table="lengths",
        x=Axis("length", "branches on the path"),
        y=(Axis("weight", "share of the gradient", "share"),),
        panel="depth",
        where={"norm": NORMS[0]},
    ),
)

STUDY = Study(
    name="gradient",
    variants=tuple(VARIANTS),
    grids=GRIDS,
    work=work,
    sentences=sentences,
    figures=FIGURES,
    claims=claims,
    outcomes=(
        Axis("first_gradient", "first layer", "log"),
        Axis("first_to_last", "first/last", "log"),
        Axis("correlation", "correlation"),
        Axis("mean_length", "path length"),
    ),
    postprocess=split_gradient,
    is_valid=is_valid,
    estimated_cost=estimated_cost,
    text=__doc__,
)
