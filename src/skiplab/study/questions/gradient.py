"""Does the lowest layer receive gradient from the start?

Networks at initialisation, in their training graph (batch norm uses the batch's statistics), untrained. `plain` has
no skip connections, `post-activation` adds the input back before the last ReLU of each block (ResNet v1),
`pre-activation` after it (ResNet v2); each with batch norm and with every batch norm left out. Same weights for each
seed, same images.

Hypothesis: with batch norm nothing vanishes, in plain networks either (He et al. 2016, arXiv:1512.03385, §4.1);
without shortcuts it explodes towards the input (Yang et al. 2019, arXiv:1902.08129) and turns into noise
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
from skiplab.study.claims import Claim, agreement, denied
from skiplab.study.grid import Report
from skiplab.study.networks import PLAIN, VARIANTS, WIDTH
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.run_cell import SAMPLES, save, seeded, split_gradient
from skiplab.study.sentences import chosen, number, of, short, times

NORMS = ("batch", "none")
NEARBY = 0.01  # of the input's own norm: the distance at which correlations are compared
SHATTERED, SPLIT = 128, 64  # samples on which correlations and path lengths are measured
GRIDS = {
    "quick": Grid({"depth": (8, 20, 56), "norm": NORMS}, seeds=5),
    "default": Grid({"depth": (8, 20, 56, 110), "norm": NORMS}),
    "full": Grid({"depth": (8, 20, 32, 56, 80, 110, 164), "norm": NORMS}, seeds=8),
}


def work(settings: Settings, folder: Path, report: Report) -> None:
    """A network of one variant, depth, normalisation and seed, as it begins."""
    model = seeded(lambda: build(settings), settings["seed"])
    row = {"status": "ok", "parameters": sum(parameter.numel() for parameter in model.parameters())}
    try:
        found, tables = measured(model, report)
    except DataError:  # a gradient that is no number
        found, tables = dict.fromkeys(OUTCOMES, float("nan")), {}
        row["status"] = "diverged"
    save({"runs": pd.DataFrame([row | found]), **tables}, folder)


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


def measured(model: nn.Module, report: Report) -> tuple[dict[str, float], Tables]:
    """The outcomes of a network at initialisation, and what they are computed from.

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
    tables: Tables = {"gradient": gradient.assign(when="initialisation"), "shattering": shattering}
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


def fits(settings: Settings) -> bool:
    if settings["norm"] not in NORMS:
        raise UsageError(f"norm {settings['norm']!r}: choose of {', '.join(NORMS)}")
    return networks.fits(settings)


def cost(settings: Settings) -> float:
    """A gradient for each path length makes it quadratic."""
    return settings["depth"] * (60 + (settings["depth"] if settings["variant"] != PLAIN else 0))


def verdicts(tables: Tables) -> Iterator[str]:
    """What the numbers say, for the deepest networks of the grid unless the sentence says otherwise."""
    runs = tables["runs"]
    deepest, shallowest = int(runs["depth"].max()), int(runs["depth"].min())
    norms, variants = (list(dict.fromkeys(runs[name])) for name in ("norm", "variant"))
    if shallowest < deepest:
        for norm in norms:
            found = {variant: _growth(runs, variant, (deepest, shallowest), norm) for variant in variants}
            yield (
                f"{_with(norm).capitalize()}, the lowest of {deepest} layers receives from the start a gradient "
                f"that is, beside that of the lowest of {shallowest}, {_sorted(found)}."
            )
    for norm in norms:
        found = {variant: _first_to_last(runs, variant, deepest, norm) for variant in variants}
        yield (
            f"{_with(norm).capitalize()}, the lowest layer's gradient is, beside the last convolution's in the same "
            f"network of {deepest} layers, {_sorted(found)}."
        )
    for norm in norms:
        yield from _shattered(runs, variants, deepest, norm)
    for norm in norms:
        for variant in variants:
            if variant != PLAIN and "lengths" in tables:
                yield from _paths(tables, variant, deepest, norm)


def claims(tables: Tables) -> Iterator[Claim]:
    runs = tables["runs"]
    variants, deepest, shallowest = set(runs["variant"]), int(runs["depth"].max()), int(runs["depth"].min())
    if "batch" not in set(runs["norm"]):
        return
    if PLAIN in variants:
        yield _healthy(runs, deepest)
    if PLAIN in variants and shallowest < deepest:
        found = _rate(_growth(runs, PLAIN, (deepest, shallowest), "batch"), deepest - shallowest)
        yield Claim(
            "In networks with batch norm and without skip connections, gradients grow exponentially with depth towards "
            "the input, whatever the initial variance of the weights.",
            "Yang et al. 2019, arXiv:1902.08129, abstract",
            f"the lowest layer's gradient grows {number(found)} times with each layer of depth between {PLAIN}-"
            f"{shallowest} and {PLAIN}-{deepest}",
            agreement(found, "above", 1.0),
        )
    for variant in sorted(variants - {PLAIN}) if PLAIN in variants else ():
        other, plain = (of(runs, "correlation", _network(each, deepest, "batch")) for each in (variant, PLAIN))
        yield Claim(
            "The gradients of deep plain networks resemble white noise; those of networks with skip connections are "
            "far more resistant to shattering.",
            "Balduzzi et al. 2017, arXiv:1702.08591, abstract",
            f"correlation at a distance of {100 * NEARBY:g} %: {number(student(other))} in {variant}-{deepest}, "
            f"{number(student(plain))} in {PLAIN}-{deepest}",
            agreement(paired(other, plain), "above"),
        )
    for variant in sorted(variants - {PLAIN}):
        found = student(of(runs, "relative_length", _network(variant, deepest, "batch")))
        yield Claim(
            "The gradient of a residual network comes by short paths: of 54 blocks, those through 5 to 17 carry most "
            "of it, though the average path goes through half (in a trained network).",
            "Veit et al. 2016, arXiv:1605.06431, §5",
            f"at initialisation it comes through {number(found)} of the branches of {variant}-{deepest} on average",
            agreement(found, "below", 0.5),
        )


def _sorted(found: dict[str, Interval]) -> str:
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
        parts[word].append(f"{variant} ({short(mean)} times{way}, 95 % interval {short(low)} to {short(high)})")
    return "; ".join(f"{word} {', '.join(names)}" for word, names in parts.items() if names)


def _shattered(runs: pd.DataFrame, variants: list[str], depth: int, norm: str) -> Iterator[str]:
    """How alike the gradients of neighbouring inputs are, and whether skips make them more so."""
    values = {variant: of(runs, "correlation", _network(variant, depth, norm)) for variant in variants}
    parts = ", ".join(f"{number(student(series))} in {variant}-{depth}" for variant, series in values.items())
    yield (
        f"{_with(norm).capitalize()}, when the input moves by {100 * NEARBY:g} % of its norm, its gradient keeps a "
        f"correlation of {parts} (1 is smooth, 0 white noise)."
    )
    for variant in variants if PLAIN in variants else ():
        change = paired(values[variant], values[PLAIN])
        if variant != PLAIN and change.known:
            shown = "differ" if change.excludes(0) else "are not shown to differ"
            interval = f"{change.mean:+.2g}, 95 % interval {change.low:+.2g} to {change.high:+.2g}"
            yield f"{_with(norm).capitalize()}, {variant} and {PLAIN} {shown} in that ({interval}, paired by seed)."


def _paths(tables: Tables, variant: str, depth: int, norm: str) -> Iterator[str]:
    """Through how many branches the gradient comes."""
    where = _network(variant, depth, norm)
    found = student(of(tables["runs"], "mean_length", where))
    lengths = tables["lengths"]
    own = chosen(lengths, where)
    if own.empty:
        return
    mean = own.groupby("length", as_index=False)[["weight"]].mean()
    (low, high), blocks = measure.band(mean), int(own["length"].max())
    yield (
        f"{_with(norm).capitalize()}, the input's gradient in {variant}-{depth} comes through {number(found)} of "
        f"{blocks} branches on average, 95 % of it through {low} to {high}; if all paths carried alike, it would be "
        f"{blocks / 2:g}."
    )


def _healthy(runs: pd.DataFrame, depth: int) -> Claim:
    found = _first_to_last(runs, PLAIN, depth, "batch")
    return Claim(
        "With batch norm, neither forward nor backward signals of plain networks vanish.",
        "He et al. 2016, arXiv:1512.03385, §4.1",
        f"the lowest layer's gradient in {PLAIN}-{depth} is {times(found)} the last convolution's",
        denied(agreement(found, "below", 1.0)),
    )


def _network(variant: str, depth: int, norm: str) -> dict[str, Any]:
    return {"variant": variant, "depth": depth, "norm": norm}


def _first_to_last(runs: pd.DataFrame, variant: str, depth: int, norm: str) -> Interval:
    ratio = of(runs, "first_to_last", _network(variant, depth, norm))
    return paired_ratio(ratio, pd.Series(1.0, ratio.index))


def _growth(runs: pd.DataFrame, variant: str, depths: tuple[int, int], norm: str) -> Interval:
    """How many times the lowest layer's gradient of the first depth is that of the second, paired by seed."""
    deep, shallow = (of(runs, "first_gradient", _network(variant, depth, norm)) for depth in depths)
    return paired_ratio(deep, shallow)


def _rate(growth: Interval, layers: int) -> Interval:
    """The factor for each of so many layers."""
    mean, low, high = (end ** (1 / layers) for end in (growth.mean, growth.low, growth.high))
    return Interval(mean, low, high, growth.count)


def _with(norm: str) -> str:
    return "with batch norm" if norm == "batch" else "without normalisation"


DEPTH = Axis("depth", "weight layers")
FIGURES = (
    Figure(
        "lowest-layer",
        "The lowest layer's gradient by depth",
        "At initialisation; thin lines are seeds, the thick one their geometric mean, the band its 95 % interval. "
        "Above its norm, below its ratio to that of the last convolution: 1 is level. A network without normalisation "
        "may be level and yet have next to no gradient anywhere, or far too much.",
        "lines",
        "runs",
        DEPTH,
        (
            Axis("first_gradient", "‖∂loss/∂weights‖ of the first layer", "log"),
            Axis("first_to_last", "first layer over last convolution", "log"),
        ),
        panel="norm",
    ),
    replace(GRADIENT, name="by-layer-batch", heading="Gradient by layer, with batch norm", where={"norm": NORMS[0]}),
    replace(
        GRADIENT,
        name="by-layer-none",
        heading="Gradient by layer, without normalisation",
        how="As above, every batch norm left out.",
        where={"norm": NORMS[1]},
    ),
    Figure(
        "shattering-by-depth",
        "Shattering by depth",
        f"Correlation of the input's gradient with that at an input {100 * NEARBY:g} % of its norm away: 1 is smooth, "
        "0 is white noise, from which no optimiser can tell where to go.",
        "lines",
        "runs",
        DEPTH,
        (Axis("correlation", "correlation"),),
        panel="norm",
    ),
    Figure(
        "shattering-by-distance",
        "Shattering by distance, with batch norm",
        "The same correlation for inputs ever farther away, a chart for each depth.",
        "lines",
        "shattering",
        Axis("distance", "distance, of the input's norm", "log"),
        (Axis("correlation", "correlation"),),
        panel="depth",
        where={"norm": NORMS[0]},
    ),
    Figure(
        "path-lengths",
        "Which paths carry the gradient, with batch norm",
        "Share of the input's gradient (by norm) that all paths through exactly so many branches carry together, at "
        "initialisation; computed exactly. Most paths go through half of all branches.",
        "lines",
        "lengths",
        Axis("length", "branches on the path"),
        (Axis("weight", "share of the gradient", "share"),),
        panel="depth",
        where={"norm": NORMS[0]},
    ),
)

STUDY = Study(
    "gradient",
    tuple(VARIANTS),
    GRIDS,
    work,
    verdicts,
    FIGURES,
    claims=claims,
    outcomes=(
        Axis("first_gradient", "first layer", "log"),
        Axis("first_to_last", "first/last", "log"),
        Axis("correlation", "correlation"),
        Axis("mean_length", "path length"),
    ),
    finish=split_gradient,
    fits=fits,
    cost=cost,
    text=__doc__,
)
