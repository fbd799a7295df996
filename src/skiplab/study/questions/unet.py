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
from skiplab.study.long_skips import BATCH, lesions, routes
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.run_cell import STRUCTURE, Training, save, seeded, structure, train
from skiplab.study.segmentation_errors import MOST, balanced, by_zone, overlap
from skiplab.study.sentences import Where, chosen, compared, difference, named, of, points
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
FEW = 30  # pixels of a zone, of which a share says little
CUT = ("all", "add", "residual")  # whose skips are replaced once they are trained
RECIPE = Recipe(epochs=12, batch_size=16, learning_rate=0.01, optimizer="adamw", weight_decay=0.01)
GRIDS = {
    "quick": Grid({"depth": (2,), "canvases": (250,)}, recipe=replace(RECIPE, epochs=10)),
    "default": Grid({"depth": (2,), "canvases": (400,)}, recipe=RECIPE),
    "full": Grid({"depth": (2, 3), "canvases": (400,)}, seeds=5, recipe=RECIPE),
}


def work(settings: Settings, folder: Path, report: Report) -> None:
    """A network of one variant, depth, number of canvases and seed, which the canvases are drawn from too."""
    drawn = {"size": SIZE, "digits": 2, "clutter": 4, "classes": "foreground"}
    data = canvases(count=settings["canvases"], seed=settings["seed"], **drawn)
    model = seeded(lambda: built(settings["variant"], settings["depth"]), settings["seed"])
    tables, trained = train(model, data, Training(settings, folder, report))
    tables |= {**structure(model, data), "routes": routes(model, data)}
    if trained is None:
        nothing = dict.fromkeys(("overlap", "edge_error", "inside_error"), float("nan"))
        save({**tables, "runs": tables["runs"].assign(**nothing)}, folder)
        return
    report(0.9, "measuring")
    outcomes, zones = judged(trained, data)
    tables |= {"runs": tables["runs"].assign(**outcomes), "zones": zones}
    if settings["variant"] in CUT:
        tables["lesions"] = lesions(trained, data)
    save(tables, folder)


def built(variant: str, depth: int) -> nn.Module:
    options = dict(VARIANTS[variant])
    without = options.pop("without", None)
    if without is not None:
        options["skips"] = tuple(level != without for level in range(depth))
    return unet(depth=depth, width=WIDTH, norm=True, **options)


def fits(settings: Settings) -> bool:
    """Only a level that the network has can be without its skip."""
    return VARIANTS[settings["variant"]].get("without", 0) < settings["depth"]


def cost(settings: Settings) -> float:
    return settings["canvases"] * settings["recipe"]["epochs"]


def judged(model: nn.Module, data: DataSet) -> tuple[dict[str, float], pd.DataFrame]:
    """On the test part: overlap and the balanced errors, and errors by zone, as in `study.segmentation_errors`."""
    with torch.no_grad():
        output = torch.cat([model(x) for x in data.test.x.split(BATCH)])
    answer, y, error = output.argmax(1), data.test.y, balanced(data.test)
    outcomes = {
        "overlap": overlap(answer, y),
        "edge_error": float(error.edge(output, y).mean()),
        "inside_error": float(error.inside(output, y).mean()),
    }
    return outcomes, by_zone(answer, y)


def finish(tables: Tables) -> Tables:
    """For charts: zones that have enough pixels, and what each lesion does in the deepest network."""
    runs, zones = tables["runs"], tables.get("zones")
    if zones is not None:
        least = zones.groupby(["kind", "distance"])["pixels"].transform("min")
        depth = [f", depth {depth}" if runs["depth"].nunique() > 1 else "" for depth in zones["depth"]]
        tables = {**tables, "zones": zones.assign(zone=zones["kind"] + depth)[least >= FEW]}
    if "lesions" not in tables:
        return tables
    cut = chosen(tables["lesions"], _deepest(runs)).sort_values("level", kind="stable")
    told = {"zero": " zeroed", "noise": " replaced by noise"}
    cut = cut.assign(lesion=cut["way"] + cut["replacement"].map(told))
    changes = {"edges": "edge_change", "inside": "inside_change"}
    parts = [cut.assign(where=where, change=cut[column]) for where, column in changes.items()]
    kept = ["variant", *_deepest(runs), "seed", "level", "lesion", "batchnorm", "where", "change"]
    return {**tables, "carried": pd.concat(parts, ignore_index=True)[kept]}


def verdicts(tables: Tables) -> Iterator[str]:
    """What the numbers say of the deepest network with the most canvases."""
    runs = tables["runs"]
    networks = {variant: {"variant": variant, **_deepest(runs)} for variant in dict.fromkeys(runs["variant"])}
    if {FULL, NONE} <= networks.keys():
        edge, inside = (_more(runs, networks[NONE], networks[FULL], column) for column in ERRORS)
        yield from apart("What the long skips carry: trained without them,", edge, inside)
    yield from _lesioned(tables, networks.get(FULL, {}))
    for a, b in (("none", "all"), ("add", "all"), ("residual", "all"), ("residual-none", "residual")):
        if {a, b} <= networks.keys():
            yield compared(runs, networks[a], networks[b], "overlap", "overlap with the digits")
    for variant in networks if FULL in networks else ():
        if variant.startswith("without") and len(chosen(runs, networks[variant])):
            yield compared(runs, networks[variant], networks[FULL], "overlap", "overlap with the digits")
            edge, inside = (_more(runs, networks[variant], networks[FULL], column) for column in ERRORS)
            yield from apart(f"Trained as {variant} and not as {FULL},", edge, inside)
    yield from _short(runs, networks)
    if {FULL, NONE} <= networks.keys():
        yield compared(runs, networks[NONE], networks[FULL], "train_error", "training error")
    yield from _routes(tables, networks)


def apart(what: str, edge: pd.Series, inside: pd.Series, left: tuple[float, float] = (0, 0)) -> Iterator[str]:
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
            end = f"that {'at edges' if beyond.mean > 0 else 'inside'} rises the more, by {_span(beyond, abs)}"
        else:
            end = f"no difference between the two is shown ({_span(beyond)}; includes zero)"
        yield f"{what} the error changes at edges by {_moved(at_edges)} and inside by {_moved(within)}; {end}."


def _moved(change: Interval) -> str:
    text = points(change)
    return text.replace(")", ", includes zero)") if change.known and not change.excludes(0) else text


def _span(value: Interval, shown: Any = float) -> str:
    """A difference of changes in points; `shown` is `abs` where the words say which way it goes."""
    low, high = sorted((shown(value.low), shown(value.high)))
    return f"{100 * shown(value.mean):.1f} points, 95 % interval {100 * low:.1f} to {100 * high:.1f}"


def _deepest(runs: pd.DataFrame) -> dict[str, int]:
    depth = int(runs["depth"].max())
    return {"depth": depth, "canvases": int(runs[runs["depth"] == depth]["canvases"].max())}


def _more(runs: pd.DataFrame, a: Where, b: Where, column: str) -> pd.Series:
    """The difference a − b of each seed."""
    return of(runs, column, a) - of(runs, column, b)


def _lesioned(tables: Tables, full: Where) -> Iterator[str]:
    """What the trained network loses, by what is replaced."""
    if not full or "lesions" not in tables or (table := chosen(tables["lesions"], full)).empty:
        return
    for told, where in _cuts(sorted(set(table["level"]) - {"all"})):
        rows = chosen(table, {"way": "long skip", "replacement": "zero", "batchnorm": "as trained", **where})
        edge, inside = (rows.groupby("seed")[f"{name}_change"].mean() for name in ("edge", "inside"))
        left = (float(rows["edge"].mean()), float(rows["inside"].mean()))
        yield from apart(f"Lesion of the trained {FULL}, {told}:", edge, inside, left)


def _cuts(levels: list[str]) -> Iterator[tuple[str, Where]]:
    """The lesions that have a sentence; what they do not say is a long skip's, zeroed, with norms as trained."""
    if len(levels) > 1:
        yield "all long skips zeroed", {"level": "all"}
        yield "all long skips zeroed, batch norm re-estimated", {"level": "all", "batchnorm": "re-estimated"}
        yield "all long skips replaced by noise", {"level": "all", "replacement": "noise"}
    for level in levels:
        side = SIZE >> int(level)
        yield f"the long skip of level {level} ({side}×{side}) zeroed", {"level": level}
    yield f"all that is computed below {SIZE}×{SIZE} zeroed", {"level": "0", "way": "way below"}


def _short(runs: pd.DataFrame, networks: Mapping[str, Where]) -> Iterator[str]:
    """Whether short skips inside make up for long ones."""
    if {FULL, NONE, "residual", "residual-none"} <= networks.keys():
        gain = paired(*_gains(runs, networks))
        yield f"What long skips add to the overlap, with short skips inside against without: {difference(gain)}"


def _gains(runs: pd.DataFrame, networks: Mapping[str, Where]) -> tuple[pd.Series, pd.Series]:
    pairs = (("residual", "residual-none"), (FULL, NONE))
    with_short, without = (_more(runs, networks[a], networks[b], "overlap") for a, b in pairs)
    return with_short, without


def _routes(tables: Tables, networks: Mapping[str, Where]) -> Iterator[str]:
    for variant in (FULL, NONE, "residual"):
        if variant in networks and "routes" in tables:
            rows = chosen(tables["routes"], networks[variant]).to_dict("records")
            told = [f"{_range(row)} at {row['route']} ({row['resolution']}×{row['resolution']})" for row in rows]
            yield f"Nonlinearities on a way through {variant}, by where it turns up again: {', '.join(told)}."


def _range(row: Any) -> str:
    return f"{row['fewest']}" if row["fewest"] == row["most"] else f"{row['fewest']} to {row['most']}"


def claims(tables: Tables) -> Iterator[Claim]:
    runs = tables["runs"]
    networks = {variant: {"variant": variant, **_deepest(runs)} for variant in dict.fromkeys(runs["variant"])}
    if {FULL, NONE} <= networks.keys():
        yield from _without_any(runs, networks[FULL], networks[NONE])
    if {FULL, "without-0"} <= networks.keys():
        gained = student(_more(runs, networks["without-0"], networks[FULL], "overlap"))
        yield Claim(
            "It segments best without the uppermost long skip, also on data like those it learned from (up to 10 %).",
            "Wilm et al. 2024, arXiv:2402.08276, abstract",
            f"overlap of without-0 against {FULL}: {difference(gained)}",
            agreement(gained, "above"),
        )
    if {FULL, "residual"} <= networks.keys():
        gained = student(_more(runs, networks["residual"], networks[FULL], "overlap"))
        yield Claim(
            "Short skips beside the long ones help a very deep network (these here are shallow).",
            "Drozdzal et al. 2016, arXiv:1608.04117, abstract",
            f"overlap of residual against {FULL}: {difference(gained)}",
            agreement(gained, "above"),
        )


def _without_any(runs: pd.DataFrame, full: Where, none: Where) -> Iterator[Claim]:
    """What the network without any long skip says of the others."""
    more, inside = (_more(runs, none, full, column) for column in ERRORS)
    edge, beyond = student(more), paired(more, inside)
    yield Claim(
        "To localise, high-resolution features of the contracting path are combined with the upsampled output.",
        "Ronneberger et al. 2015, arXiv:1505.04597, §1",
        f"error at edges of {NONE} against {named(full)}: {difference(edge)}",
        agreement(edge, "above"),
    )
    recovered = agreement(beyond, "above")
    yield Claim(
        "Long skips recover spatial information that is lost in downsampling.",
        "Drozdzal et al. 2016, arXiv:1608.04117, abstract",
        f"what leaving them out adds to the error at edges, {points(edge)}, against what it adds inside: "
        f"{difference(beyond)}",
        "not shown" if recovered == "yes" and not edge.low > 0 else recovered,  # nothing is lost at edges
    )
    overlap_lost = student(_more(runs, full, none, "overlap"))
    yield Claim(
        "The U-Net segments better than the same without any long skip.",
        "Wilm et al. 2024, arXiv:2402.08276, abstract",
        f"overlap of {FULL} against {NONE}: {difference(overlap_lost)}",
        agreement(overlap_lost, "above"),
    )


OVERLAP = Axis("overlap", "overlap with the digits", "share")
EDGE, INSIDE = Axis("edge_error", "error at edges", "share"), Axis("inside_error", "error inside", "share")
FIGURES = (
    Figure(
        "overlap",
        "With and without each long skip, trained so",
        "Overlap: intersection over union of the digits' pixels on test canvases. Errors are balanced: the mean of the "
        "share of digit pixels missed and of the share of background taken for digit, which is 50 % for whatever says "
        "the same everywhere; at edges (a pixel of the other class is next to it) and inside (none is). One point a "
        "seed; the tick is their mean, the line its 95 % interval (Student's t). A cross is a run that diverged.",
        "points",
        "runs",
        Axis("variant", "network", "steps"),
        (OVERLAP, EDGE, INSIDE),
        panel="depth",
    ),
    Figure(
        "lesions",
        "What each way carries in the trained network",
        "Rise of the balanced error when the value that a long skip brings, or that comes up from below it, is "
        "replaced without retraining: by zeros, or by noise with the mean and variance of its channels. Level 0 has "
        "the input's resolution. What carries where the edges are, and nothing else, would cost more at edges.",
        "points",
        "carried",
        Axis("level", "level", "steps"),
        (Axis("change", "rise of the error", "change"),),
        by="where",
        panel="lesion",
        where={"variant": FULL, "batchnorm": "as trained"},
    ),
    Figure(
        "zones",
        "Errors by distance to an edge",
        f"Share of wrong pixels, of those of the digits and of the background, by the distance to the nearest pixel of "
        f"the other class; {MOST} is {MOST} or more, and zones of fewer than {FEW} pixels in some run are left out.",
        "points",
        "zones",
        Axis("distance", "pixels to the other class", "steps"),
        (Axis("wrong", "wrong pixels", "share"),),
        panel="zone",
    ),
    Figure(
        "learning",
        "Learning",
        "Share of wrong pixels at the end of each epoch, in evaluation mode: a thin line a seed, their mean thick, its "
        "95 % interval shaded.",
        "lines",
        "curves",
        Axis("epoch", "epoch"),
        (TRAIN_ERROR, TEST_ERROR),
        panel="depth",
    ),
    Figure(
        "routes",
        "Nonlinearities by route",
        "All paths from input to output, by the level at which they turn up again: over its long skip, or at the "
        "bottom. Max pools count as nonlinearities.",
        "table",
        "routes",
    ),
    SKIPS,
    *CENSUS,
)

STUDY = Study(
    "unet",
    tuple(VARIANTS),
    GRIDS,
    work,
    verdicts,
    FIGURES,
    claims=claims,
    outcomes=(OVERLAP, EDGE, INSIDE, TRAIN_ERROR, TEST_ERROR),
    once=(*STRUCTURE, "routes"),
    finish=finish,
    fits=fits,
    cost=cost,
    text=__doc__,
)
