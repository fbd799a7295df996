"""What do the long skips of a U-Net carry?

U-Nets that find digits on cluttered canvases, pixel by pixel. `all` has a long skip at every resolution, joined by
concatenation as in the paper; `without-0` lacks the one at the input's resolution, `without-1` the one below it, and
so on; `none` has no long skip; `add` has all, joined by addition. `residual` and `residual-none` are `all` and `none`
with a short skip around every pair of convolutions. Each differs from `all` in one thing. With addition a network has
as many parameters as with no long skip at all; a concatenated one makes the convolution after it larger.

Hypotheses: long skips bring back *where* things are, which downsampling loses, so that edges suffer without them
(Ronneberger et al. 2015, arXiv:1505.04597, §1; Drozdzal et al. 2016, arXiv:1608.04117, §1); the uppermost one is better
left out (Wilm et al. 2024, arXiv:2402.08276, abstract).

Measured, besides training (ablation): in the trained network each long skip, and each way below it, is replaced by
zeros and by noise with the mean and variance of its channels (lesion); and the nonlinearities on the routes that turn
at each level. Errors are taken apart by the distance of a pixel to the nearest one of the other class. Strokes are
thin, and nearly all that is far from an edge is background; so errors at edges and inside are balanced between the
classes: saying "background" everywhere is wrong on one half of either, and cannot look like a loss of edges.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from skiplab.data import DataSet, canvases
from skiplab.models import unet
from skiplab.report.figure_spec import TEST_ERROR, TRAIN_ERROR, Axis, Figure
from skiplab.stats.intervals import Interval, paired, student
from skiplab.study.charts import CENSUS, SKIPS
from skiplab.study.claims import Claim, agreement
from skiplab.study.grid import Report
from skiplab.study.long_skips import BATCH, lesion_table, route_table
from skiplab.study.question import Grid, Settings, Study, Tables, network_name
from skiplab.study.run_cell import STRUCTURE, RunContext, build_with_seed, measure_structure, save_tables, train_network
from skiplab.study.segmentation_errors import MAX_DISTANCE, balanced_errors, errors_by_zone, intersection_over_union
from skiplab.study.sentences import (
    RowFilter,
    compare_shares,
    format_difference,
    format_points,
    select_rows,
    values_by_seed,
)
from skiplab.training.recipe import Recipe

LEVELS = 4  # at most, of those that can be left out
WIDTH, SIZE = 8, 24
VARIANTS: dict[str, dict[str, Any]] = {  # options of `unet`; "without" is a level that has no long skip
    "all": {},
    **{f"without-{level}": {"without": level} for level in range(LEVELS)},
    "none": {"skips": False},
    "add": {"combine": "add"},
    "residual": {"residual": True},
    "residual-none": {"residual": True, "skips": False},
}
FULL, NONE = "all", "none"
ERRORS = ("edge_error", "inside_error")
NEAR_CHANCE = 0.45  # a balanced error: chance is 0.5
MIN_PIXELS = 30  # pixels of a zone, of which a share says little
LESIONED = ("all", "add", "residual")  # whose skips are replaced once they are trained
RECIPE = Recipe(epochs=12, batch_size=16, learning_rate=0.01, optimizer="adamw", weight_decay=0.01)
GRIDS = {
    "quick": Grid(axes={"depth": (2,), "canvases": (250,)}, recipe=replace(RECIPE, epochs=10)),
    "default": Grid(axes={"depth": (2,), "canvases": (400,)}, recipe=RECIPE),
    "full": Grid(axes={"depth": (2, 3), "canvases": (400,)}, seeds=5, recipe=RECIPE),
}


def work(settings: Settings, folder: Path, report: Report) -> None:
    """A network of one variant, depth, number of canvases and seed, which the canvases are drawn from too."""
    drawn = {"size": SIZE, "digits": 2, "clutter": 4, "classes": "foreground"}
    data = canvases(count=settings["canvases"], seed=settings["seed"], **drawn)
    model = build_with_seed(lambda: build(settings["variant"], settings["depth"]), settings["seed"])
    tables, trained = train_network(model, data, RunContext(settings, folder, report))
    tables |= {**measure_structure(model, data), "routes": route_table(model, data)}
    if trained is None:
        nothing = dict.fromkeys(("overlap", "edge_error", "inside_error"), float("nan"))
        save_tables({**tables, "runs": tables["runs"].assign(**nothing)}, folder)
        return
    report(0.9, "measuring")
    outcomes, zones = evaluate(trained, data)
    tables |= {"runs": tables["runs"].assign(**outcomes), "zones": zones}
    if settings["variant"] in LESIONED:
        tables["lesions"] = lesion_table(trained, data)
    save_tables(tables, folder)


def build(variant: str, depth: int) -> nn.Module:
    options = dict(VARIANTS[variant])
    without = options.pop("without", None)
    if without is not None:
        options["skips"] = tuple(level != without for level in range(depth))
    return unet(depth=depth, width=WIDTH, norm=True, **options)


def is_valid(settings: Settings) -> bool:
    """Only a level that the network has can be without its skip."""
    return VARIANTS[settings["variant"]].get("without", 0) < settings["depth"]


def estimated_cost(settings: Settings) -> float:
    return settings["canvases"] * settings["recipe"]["epochs"]


def evaluate(model: nn.Module, data: DataSet) -> tuple[dict[str, float], pd.DataFrame]:
    """On the test part: overlap and the balanced errors, and errors by zone, as in `study.segmentation_errors`."""
    with torch.no_grad():
        output = torch.cat([model(x) for x in data.test.x.split(BATCH)])
    answer, y, error = output.argmax(1), data.test.y, balanced_errors(data.test)
    outcomes = {
        "overlap": intersection_over_union(answer, y),
        "edge_error": float(error.edge(output, y).mean()),
        "inside_error": float(error.inside(output, y).mean()),
    }
    return outcomes, errors_by_zone(answer, y)


def postprocess(tables: Tables) -> Tables:
    """For charts: zones that have enough pixels, and what each lesion does in the deepest network."""
    runs, zones = tables["runs"], tables.get("zones")
    if zones is not None:
        least = zones.groupby(["kind", "distance"])["pixels"].transform("min")
        depth = [f", depth {depth}" if runs["depth"].nunique() > 1 else "" for depth in zones["depth"]]
        tables = {**tables, "zones": zones.assign(zone=zones["kind"] + depth)[least >= MIN_PIXELS]}
    if "lesions" not in tables:
        return tables
    cut = select_rows(tables["lesions"], _deepest(runs)).sort_values("level", kind="stable")
    told = {"zero": " zeroed", "noise": " replaced by noise"}
    cut = cut.assign(lesion=cut["way"] + cut["replacement"].map(told))
    changes = {"edges": "edge_change", "inside": "inside_change"}
    parts = [cut.assign(where=where, change=cut[column]) for where, column in changes.items()]
    kept = ["variant", *_deepest(runs), "seed", "level", "lesion", "batchnorm", "where", "change"]
    return {**tables, "carried": pd.concat(parts, ignore_index=True)[kept]}


def sentences(tables: Tables) -> Iterator[str]:
    """What the numbers say of the deepest network with the most canvases."""
    runs = tables["runs"]
    networks = {variant: {"variant": variant, **_deepest(runs)} for variant in dict.fromkeys(runs["variant"])}
    if {FULL, NONE} <= networks.keys():
        edge, inside = (_difference_by_seed(runs, networks[NONE], networks[FULL], column) for column in ERRORS)
        yield from edge_and_inside("What the long skips carry: trained without them,", edge, inside)
    yield from _lesion_sentences(tables, networks.get(FULL, {}))
    for a, b in (("none", "all"), ("add", "all"), ("residual", "all"), ("residual-none", "residual")):
        if {a, b} <= networks.keys():
            yield compare_shares(runs, networks[a], networks[b], "overlap", "overlap with the digits")
    for variant in networks if FULL in networks else ():
        if variant.startswith("without") and len(select_rows(runs, networks[variant])):
            yield compare_shares(runs, networks[variant], networks[FULL], "overlap", "overlap with the digits")
            edge, inside = (_difference_by_seed(runs, networks[variant], networks[FULL], column) for column in ERRORS)
            yield from edge_and_inside(f"Trained as {variant} and not as {FULL},", edge, inside)
    yield from _short_skip_sentence(runs, networks)
    if {FULL, NONE} <= networks.keys():
        yield compare_shares(runs, networks[NONE], networks[FULL], "train_error", "training error")
    yield from _route_sentences(tables, networks)


def edge_and_inside(what: str, edge: pd.Series, inside: pd.Series, left: tuple[float, float] = (0, 0)) -> Iterator[str]:
    """A sentence on two changes of the error, by seed, and on whether they differ; none where no run has them.

    `left`: the errors that they lead to. At chance there is no more to lose, and a difference of losses says nothing.
    """
    if edge.notna().any():
        at_edges, within, beyond = student(edge), student(inside), paired(edge, inside)
        if not beyond.known:
            end = "a single seed, which gives no interval"
        elif max(left) >= NEAR_CHANCE:
            errors = " and ".join(f"{100 * error:.0f} %" for error in left)
            end = f"it is then {errors}, about chance (50 %), so which of the two this concerns more cannot be told"
        elif beyond.excludes(0):
            end = f"that {'at edges' if beyond.mean > 0 else 'inside'} rises the more, by {_format_span(beyond, abs)}"
        else:
            end = f"no difference between the two is shown ({_format_span(beyond)}; includes zero)"
        yield (
            f"{what} the error changes at edges by {_format_change(at_edges)} and inside by "
            f"{_format_change(within)}; {end}."
        )


def _format_change(change: Interval) -> str:
    text = format_points(change)
    return text.replace(")", ", includes zero)") if change.known and not change.excludes(0) else text


def _format_span(value: Interval, shown: Any = float) -> str:
    """A difference of changes in points; `shown` is `abs` where the words say which way it goes."""
    low, high = sorted((shown(value.low), shown(value.high)))
    return f"{100 * shown(value.mean):.1f} points, 95 % interval {100 * low:.1f} to {100 * high:.1f}"


def _deepest(runs: pd.DataFrame) -> dict[str, int]:
    depth = int(runs["depth"].max())
    return {"depth": depth, "canvases": int(runs[runs["depth"] == depth]["canvases"].max())}


def _difference_by_seed(runs: pd.DataFrame, a: RowFilter, b: RowFilter, column: str) -> pd.Series:
    """The difference a − b of each seed."""
    return values_by_seed(runs, column, a) - values_by_seed(runs, column, b)


def _lesion_sentences(tables: Tables, full: RowFilter) -> Iterator[str]:
    """What the trained network loses, by what is replaced."""
    if not full or "lesions" not in tables or (table := select_rows(tables["lesions"], full)).empty:
        return
    for told, where in _lesion_cases(sorted(set(table["level"]) - {"all"})):
        rows = select_rows(table, {"way": "long skip", "replacement": "zero", "batchnorm": "as trained", **where})
        edge, inside = (rows.groupby("seed")[f"{name}_change"].mean() for name in ("edge", "inside"))
        left = (float(rows["edge"].mean()), float(rows["inside"].mean()))
        yield from edge_and_inside(f"Lesion of the trained {FULL}, {told}:", edge, inside, left)


def _lesion_cases(levels: list[str]) -> Iterator[tuple[str, RowFilter]]:
    """The lesions that have a sentence; what they do not say is a long skip's, zeroed, with norms as trained."""
    if len(levels) > 1:
        yield "all long skips zeroed", {"level": "all"}
        yield "all long skips zeroed, batch norm re-estimated", {"level": "all", "batchnorm": "re-estimated"}
        yield "all long skips replaced by noise", {"level": "all", "replacement": "noise"}
    for level in levels:
        side = SIZE >> int(level)
        yield f"the long skip of level {level} ({side}×{side}) zeroed", {"level": level}
    yield f"all that is computed below {SIZE}×{SIZE} zeroed", {"level": "0", "way": "way below"}


def _short_skip_sentence(runs: pd.DataFrame, networks: Mapping[str, RowFilter]) -> Iterator[str]:
    """Whether short skips inside make up for long ones."""
    if {FULL, NONE, "residual", "residual-none"} <= networks.keys():
        gain = paired(*_long_skip_gains(runs, networks))
        yield f"What long skips add to the overlap, with short skips inside against without: {format_difference(gain)}"


def _long_skip_gains(runs: pd.DataFrame, networks: Mapping[str, RowFilter]) -> tuple[pd.Series, pd.Series]:
    pairs = (("residual", "residual-none"), (FULL, NONE))
    with_short, without = (_difference_by_seed(runs, networks[a], networks[b], "overlap") for a, b in pairs)
    return with_short, without


def _route_sentences(tables: Tables, networks: Mapping[str, RowFilter]) -> Iterator[str]:
    for variant in (FULL, NONE, "residual"):
        if variant in networks and "routes" in tables:
            rows = select_rows(tables["routes"], networks[variant]).to_dict("records")
            told = [f"{_format_range(row)} at {row['route']} ({row['resolution']}×{row['resolution']})" for row in rows]
            yield f"Nonlinearities on a way through {variant}, by where it turns up again: {', '.join(told)}."


def _format_range(row: Any) -> str:
    return f"{row['fewest']}" if row["fewest"] == row["most"] else f"{row['fewest']} to {row['most']}"


def claims(tables: Tables) -> Iterator[Claim]:
    runs = tables["runs"]
    networks = {variant: {"variant": variant, **_deepest(runs)} for variant in dict.fromkeys(runs["variant"])}
    if {FULL, NONE} <= networks.keys():
        yield from _no_skip_claims(runs, networks[FULL], networks[NONE])
    if {FULL, "without-0"} <= networks.keys():
        gained = student(_difference_by_seed(runs, networks["without-0"], networks[FULL], "overlap"))
        yield Claim(
            claim="It segments best without the uppermost long skip, also on data like those it learned from (up to "
            "10 %).",
            source="Wilm et al. 2024, arXiv:2402.08276, abstract",
            found=f"overlap of without-0 against {FULL}: {format_difference(gained)}",
            agrees=agreement(gained, "above"),
        )
    if {FULL, "residual"} <= networks.keys():
        gained = student(_difference_by_seed(runs, networks["residual"], networks[FULL], "overlap"))
        yield Claim(
            claim="Short skips beside the long ones help a very deep network (these here are shallow).",
            source="Drozdzal et al. 2016, arXiv:1608.04117, abstract",
            found=f"overlap of residual against {FULL}: {format_difference(gained)}",
            agrees=agreement(gained, "above"),
        )


def _no_skip_claims(runs: pd.DataFrame, full: RowFilter, none: RowFilter) -> Iterator[Claim]:
    """What the network without any long skip says of the others."""
    more, inside = (_difference_by_seed(runs, none, full, column) for column in ERRORS)
    edge, beyond = student(more), paired(more, inside)
    yield Claim(
        claim="To localize, high-resolution features of the contracting path are combined with the upsampled output.",
        source="Ronneberger et al. 2015, arXiv:1505.04597, §1",
        found=f"error at edges of {NONE} against {network_name(full)}: {format_difference(edge)}",
        agrees=agreement(edge, "above"),
    )
    recovered = agreement(beyond, "above")
    yield Claim(
        claim="Long skips recover spatial information that is lost in downsampling.",
        source="Drozdzal et al. 2016, arXiv:1608.04117, abstract",
        found=f"what leaving them out adds to the error at edges, {format_points(edge)}, against what it adds inside: "
        f"{format_difference(beyond)}",
        agrees="not shown" if recovered == "yes" and not edge.low > 0 else recovered,  # nothing is lost at edges
    )
    overlap_lost = student(_difference_by_seed(runs, full, none, "overlap"))
    yield Claim(
        claim="The U-Net segments better than the same without any long skip.",
        source="Wilm et al. 2024, arXiv:2402.08276, abstract",
        found=f"overlap of {FULL} against {NONE}: {format_difference(overlap_lost)}",
        agrees=agreement(overlap_lost, "above"),
    )


OVERLAP = Axis("overlap", "overlap with the digits", "share")
EDGE, INSIDE = Axis("edge_error", "error at edges", "share"), Axis("inside_error", "error inside", "share")
FIGURES = (
    Figure(
        name="overlap",
        heading="With and without each long skip, trained so",
        how="Overlap: intersection over union of the digits' pixels on test canvases. Errors are balanced: the mean "
        "of the share of digit pixels missed and of the share of background taken for digit, which is 50 % for "
        "whatever says the same everywhere; at edges (a pixel of the other class is next to it) and inside (none "
        "is). One point a seed; the tick is their mean, the line its 95 % interval (Student's t). A cross is a run "
        "that diverged.",
        chart="points",
        table="runs",
        x=Axis("variant", "network", "steps"),
        y=(OVERLAP, EDGE, INSIDE),
        panel="depth",
    ),
    Figure(
        name="lesions",
        heading="What each way carries in the trained network",
        how="Rise of the balanced error when the value that a long skip brings, or that comes up from below it, is "
        "replaced without retraining: by zeros, or by noise with the mean and variance of its channels. Level 0 has "
        "the input's resolution. What carries where the edges are, and nothing else, would cost more at edges.",
        chart="points",
        table="carried",
        x=Axis("level", "level", "steps"),
        y=(Axis("change", "rise of the error", "change"),),
        by="where",
        panel="lesion",
        where={"variant": FULL, "batchnorm": "as trained"},
    ),
    Figure(
        name="zones",
        heading="Errors by distance to an edge",
        how="Share of wrong pixels, of those of the digits and of the background, by the distance to the nearest "
        f"pixel of the other class; {MAX_DISTANCE} is {MAX_DISTANCE} or more, and zones of fewer than {MIN_PIXELS} "
        "pixels in some run are left out.",
        chart="points",
        table="zones",
        x=Axis("distance", "pixels to the other class", "steps"),
        y=(Axis("wrong", "wrong pixels", "share"),),
        panel="zone",
    ),
    Figure(
        name="learning",
        heading="Learning",
        how="Share of wrong pixels at the end of each epoch, in evaluation mode: a thin line a seed, their mean "
        "thick, its 95 % interval shaded.",
        chart="lines",
        table="curves",
        x=Axis("epoch", "epoch"),
        y=(TRAIN_ERROR, TEST_ERROR),
        panel="depth",
    ),
    Figure(
        name="routes",
        heading="Nonlinearities by route",
        how="All paths from input to output, by the level at which they turn up again: over its long skip, or at the "
        "bottom. Max pools count as nonlinearities.",
        chart="table",
        table="routes",
    ),
    SKIPS,
    *CENSUS,
)

STUDY = Study(
    name="unet",
    variants=tuple(VARIANTS),
    grids=GRIDS,
    work=work,
    sentences=sentences,
    figures=FIGURES,
    claims=claims,
    outcomes=(OVERLAP, EDGE, INSIDE, TRAIN_ERROR, TEST_ERROR),
    seed_invariant=(*STRUCTURE, "routes"),
    postprocess=postprocess,
    is_valid=is_valid,
    estimated_cost=estimated_cost,
    text=__doc__,
)
