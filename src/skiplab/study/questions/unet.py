"""What do the long skips of a U-Net carry?

U-Nets that find digits on cluttered canvases, pixel by pixel. `all` has a long skip at every resolution, merged by
concatenation as in the paper. `without-0` lacks the one at the input's resolution, `without-1` the one below it, and so
on; `none` has no long skip; `add` has all, merged by addition. `residual` and `residual-none` are `all` and `none` with
a short skip around every pair of convolutions. With addition a network has as many parameters as without long skips; a
concatenation makes the following convolution larger.

Hypotheses: long skips restore *where* things are, which downsampling loses, so that edges suffer without them
(Ronneberger et al. 2015, arXiv:1505.04597, §1; Drozdzal et al. 2016, arXiv:1608.04117, §1); the network is better
without the uppermost one (Wilm et al. 2024, arXiv:2402.08276, abstract).

Measured: training without skips (ablation); in the trained network, replacing each long skip, and each branch below it,
by zeros and by noise with the mean and variance of its channels (lesion); and the nonlinearities on the paths of each
level. Errors are counted by the distance of a pixel to the nearest one of the other class. Strokes are thin, and nearly
all pixels far from an edge are background, so errors at edges and inside are balanced between the classes: always
predicting the background has an error of 50 % at edges and inside, and cannot look like a loss of edges.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import nn

from skiplab.data import DataSet, canvases
from skiplab.models import unet
from skiplab.report.figure_spec import TEST_ERROR, TRAIN_ERROR, Axis, Figure, lines, points
from skiplab.stats.intervals import Interval, paired, student
from skiplab.study.by_seed import RowFilter, difference, distinct, select_rows, values_by_seed
from skiplab.study.charts import CENSUS, HOW_POINTS, NETWORK, SKIPS
from skiplab.study.claims import Claim, agreement
from skiplab.study.long_skips import BATCH, lesion_table, route_table
from skiplab.study.question import Grid, Settings, Study, Tables, network_name
from skiplab.study.run_cell import STRUCTURE, RunContext, build_with_seed, measure_structure, train_network
from skiplab.study.segmentation_errors import MAX_DISTANCE, balanced_errors, errors_by_zone, intersection_over_union
from skiplab.study.sentences import compare_shares, format_difference, format_points
from skiplab.training.recipe import Recipe

LEVELS = 4  # levels with a variant that lacks their long skip
WIDTH, SIZE = 8, 24
VARIANTS: dict[str, dict[str, Any]] = {  # options of `unet`; "without": the level without a long skip
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
MIN_PIXELS = 30  # in a zone: shares of fewer are unreliable
LESIONED = ("all", "add", "residual")  # variants with lesions after training
RECIPE = Recipe(epochs=12, batch_size=16, learning_rate=0.01, optimizer="adamw", weight_decay=0.01)
GRIDS = {
    "quick": Grid(axes={"depth": (2,), "canvases": (250,)}, recipe=replace(RECIPE, epochs=10)),
    "default": Grid(axes={"depth": (2,), "canvases": (400,)}, recipe=RECIPE),
    "full": Grid(axes={"depth": (2, 3), "canvases": (400,)}, seeds=5, recipe=RECIPE),
}


def work(run: RunContext) -> Tables:
    """Train and measure the network of one variant, depth, number of canvases and seed; the seed draws the canvases."""
    drawn = {"size": SIZE, "digits": 2, "clutter": 4, "classes": "foreground"}
    settings = run.settings
    data = canvases(count=settings["canvases"], seed=settings["seed"], **drawn)
    model = build_with_seed(lambda: build(settings["variant"], settings["depth"]), settings["seed"])
    tables, trained = train_network(model, data, run)
    tables |= {**measure_structure(model, data), "routes": route_table(model, data)}
    if trained is None:
        nothing = dict.fromkeys(("overlap", "edge_error", "inside_error"), float("nan"))
        return {**tables, "runs": tables["runs"].assign(**nothing)}
    run.report(0.9, "measuring")
    outcomes, zones = evaluate(trained, data)
    tables |= {"runs": tables["runs"].assign(**outcomes), "zones": zones}
    if settings["variant"] in LESIONED:
        tables["lesions"] = lesion_table(trained, data)
    return tables


def build(variant: str, depth: int) -> nn.Module:
    """The network, with initial weights from torch's random state."""
    options = dict(VARIANTS[variant])
    without = options.pop("without", None)
    if without is not None:
        options["skips"] = tuple(level != without for level in range(depth))
    return unet(depth=depth, width=WIDTH, norm=True, **options)


def is_valid(settings: Settings) -> bool:
    """Whether the network has the level whose skip is left out."""
    return VARIANTS[settings["variant"]].get("without", 0) < settings["depth"]


def estimated_cost(settings: Settings) -> float:
    """Proportional to canvases and epochs."""
    return settings["canvases"] * settings["recipe"]["epochs"]


def evaluate(model: nn.Module, data: DataSet) -> tuple[dict[str, float], pd.DataFrame]:
    """Overlap, balanced errors and errors by zone on the test part, as in `skiplab.study.segmentation_errors`."""
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
    """Tables for charts: zones with enough pixels, and the effect of each lesion in the deepest network."""
    runs, zones = tables["runs"], tables.get("zones")
    if zones is not None:
        least = zones.groupby(["kind", "distance"])["pixels"].transform("min")
        depth = [f", depth {depth}" if runs["depth"].nunique() > 1 else "" for depth in zones["depth"]]
        tables = {**tables, "zones": zones.assign(zone=zones["kind"] + depth)[least >= MIN_PIXELS]}
    if "lesions" not in tables:
        return tables
    cut = select_rows(tables["lesions"], _deepest(runs)).sort_values("level", kind="stable")
    replacements = {"zero": " zeroed", "noise": " replaced by noise"}
    cut = cut.assign(lesion=cut["way"] + cut["replacement"].map(replacements))
    changes = {"edges": "edge_change", "inside": "inside_change"}
    parts = [cut.assign(where=where, change=cut[column]) for where, column in changes.items()]
    kept = ["variant", *_deepest(runs), "seed", "level", "lesion", "batchnorm", "where", "change"]
    return {**tables, "carried": pd.concat(parts, ignore_index=True)[kept]}


def sentences(tables: Tables) -> Iterator[str]:
    """Ablations and lesions of long skips in the deepest network with the most canvases."""
    runs = tables["runs"]
    networks = _deepest_networks(runs)
    if {FULL, NONE} <= networks.keys():
        edge, inside = (_difference_by_seed(runs, networks[NONE], networks[FULL], column) for column in ERRORS)
        yield from edge_and_inside("Trained without long skips", edge, inside)
    yield from _lesion_sentences(tables, networks.get(FULL, {}))
    for a, b in (("none", "all"), ("add", "all"), ("residual", "all"), ("residual-none", "residual")):
        if {a, b} <= networks.keys():
            yield compare_shares(runs, networks[a], networks[b], "overlap", "overlap with the digits")
    for variant in networks if FULL in networks else ():
        if variant.startswith("without") and len(select_rows(runs, networks[variant])):
            yield compare_shares(runs, networks[variant], networks[FULL], "overlap", "overlap with the digits")
            edge, inside = (_difference_by_seed(runs, networks[variant], networks[FULL], column) for column in ERRORS)
            yield from edge_and_inside(f"Trained as {variant}, compared with {FULL}", edge, inside)
    yield from _short_skip_sentence(runs, networks)
    if {FULL, NONE} <= networks.keys():
        yield compare_shares(runs, networks[NONE], networks[FULL], "train_error", "training error")
    yield from _route_sentences(tables, networks)


def edge_and_inside(what: str, edge: pd.Series, inside: pd.Series, left: tuple[float, float] = (0, 0)) -> Iterator[str]:
    """A sentence on the changes of the errors at edges and inside, by seed; none if no run has them.

    `left`: the errors after the change. Near chance an error cannot rise further, so the two changes are not compared.
    """
    if edge.notna().any():
        at_edges, within, beyond = student(edge), student(inside), paired(edge, inside)
        if not beyond.known:
            answer = "no interval from a single seed"
        elif max(left) >= NEAR_CHANCE:
            errors = " and ".join(f"{100 * error:.0f} %" for error in left)
            answer = f"not comparable, since the errors {errors} are near chance (50 %)"
        elif beyond.excludes(0):
            answer = (
                f"the error rises more {'at edges' if beyond.mean > 0 else 'inside'}, by {_format_span(beyond, abs)}"
            )
        else:
            answer = f"no clear difference between edges and inside ({_format_span(beyond)})"
        yield f"{what}: {answer}; change at edges {_format_change(at_edges)}, inside {_format_change(within)}."


def _format_change(change: Interval) -> str:
    text = format_points(change)
    return f"{text}, no clear change" if change.known and not change.excludes(0) else text


def _format_span(value: Interval, shown: Any = float) -> str:
    """A difference of changes in points; `shown` is `abs` where the text gives the sign."""
    low, high = sorted((shown(value.low), shown(value.high)))
    return f"{100 * shown(value.mean):.1f} points, 95 % interval {100 * low:.1f} to {100 * high:.1f}"


def _deepest(runs: pd.DataFrame) -> dict[str, int]:
    depth = int(runs["depth"].max())
    return {"depth": depth, "canvases": int(runs[runs["depth"] == depth]["canvases"].max())}


def _deepest_networks(runs: pd.DataFrame) -> dict[str, RowFilter]:
    """The rows of the deepest network with the most canvases, for each variant."""
    return {variant: {"variant": variant, **_deepest(runs)} for variant in distinct(runs, "variant")}


def _difference_by_seed(runs: pd.DataFrame, a: RowFilter, b: RowFilter, column: str) -> pd.Series:
    """The difference a − b of each seed."""
    return values_by_seed(runs, column, a) - values_by_seed(runs, column, b)


def _lesion_sentences(tables: Tables, full: RowFilter) -> Iterator[str]:
    """Effect of each lesion of the trained network."""
    if not full or "lesions" not in tables or (table := select_rows(tables["lesions"], full)).empty:
        return
    for text, where in _lesion_cases(sorted(set(table["level"]) - {"all"})):
        rows = select_rows(table, {"way": "long skip", "replacement": "zero", "batchnorm": "as trained", **where})
        edge, inside = (rows.groupby("seed")[f"{name}_change"].mean() for name in ("edge", "inside"))
        left = (float(rows["edge"].mean()), float(rows["inside"].mean()))
        yield from edge_and_inside(f"Lesion of trained {FULL}, {text}", edge, inside, left)


def _lesion_cases(levels: list[str]) -> Iterator[tuple[str, RowFilter]]:
    """The lesions with a sentence, and how they differ from: long skip, zeroed, batch norm as trained."""
    if len(levels) > 1:
        yield "all long skips zeroed", {"level": "all"}
        yield "all long skips zeroed, batch norm re-estimated", {"level": "all", "batchnorm": "re-estimated"}
        yield "all long skips replaced by noise", {"level": "all", "replacement": "noise"}
    for level in levels:
        side = SIZE >> int(level)
        yield f"the long skip of level {level} ({side}×{side}) zeroed", {"level": level}
    yield f"everything below {SIZE}×{SIZE} zeroed", {"level": "0", "way": "way below"}


def _short_skip_sentence(runs: pd.DataFrame, networks: Mapping[str, RowFilter]) -> Iterator[str]:
    """Whether short skips replace long ones."""
    if {FULL, NONE, "residual", "residual-none"} <= networks.keys():
        gain = paired(*_long_skip_gains(runs, networks))
        yield f"Overlap gained by long skips, with short skips minus without: {format_difference(gain)}"


def _long_skip_gains(runs: pd.DataFrame, networks: Mapping[str, RowFilter]) -> tuple[pd.Series, pd.Series]:
    pairs = (("residual", "residual-none"), (FULL, NONE))
    with_short, without = (_difference_by_seed(runs, networks[a], networks[b], "overlap") for a, b in pairs)
    return with_short, without


def _route_sentences(tables: Tables, networks: Mapping[str, RowFilter]) -> Iterator[str]:
    for variant in (FULL, NONE, "residual"):
        if variant in networks and "routes" in tables:
            rows = select_rows(tables["routes"], networks[variant]).to_dict("records")
            parts = [
                f"{_format_range(row)} by {row['route']} ({row['resolution']}×{row['resolution']})" for row in rows
            ]
            yield f"Nonlinearities on a path through {variant}: {', '.join(parts)}."


def _format_range(row: Any) -> str:
    return f"{row['fewest']}" if row["fewest"] == row["most"] else f"{row['fewest']} to {row['most']}"


def claims(tables: Tables) -> Iterator[Claim]:
    """Claims about long and short skips, for the deepest network with the most canvases."""
    runs = tables["runs"]
    networks = _deepest_networks(runs)
    if {FULL, NONE} <= networks.keys():
        yield from _no_skip_claims(runs, networks[FULL], networks[NONE])
    if {FULL, "without-0"} <= networks.keys():
        gained = difference(runs, "overlap", networks["without-0"], networks[FULL])
        yield Claim(
            claim="A U-Net segments best without the uppermost long skip, also on data like its training data (up "
            "to 10 %).",
            source="Wilm et al. 2024, arXiv:2402.08276, abstract",
            found=f"overlap of without-0 minus {FULL}: {format_difference(gained)}",
            agrees=agreement(gained, "above"),
        )
    if {FULL, "residual"} <= networks.keys():
        gained = difference(runs, "overlap", networks["residual"], networks[FULL])
        yield Claim(
            claim="Short skips in addition to the long ones help a very deep network (these here are shallow).",
            source="Drozdzal et al. 2016, arXiv:1608.04117, abstract",
            found=f"overlap of residual minus {FULL}: {format_difference(gained)}",
            agrees=agreement(gained, "above"),
        )


def _no_skip_claims(runs: pd.DataFrame, full: RowFilter, none: RowFilter) -> Iterator[Claim]:
    """Claims tested by the network without long skips."""
    more, inside = (_difference_by_seed(runs, none, full, column) for column in ERRORS)
    edge, beyond = student(more), paired(more, inside)
    yield Claim(
        claim="To localize, high-resolution features of the contracting path are combined with the upsampled output.",
        source="Ronneberger et al. 2015, arXiv:1505.04597, §1",
        found=f"error at edges of {NONE} minus {network_name(full)}: {format_difference(edge)}",
        agrees=agreement(edge, "above"),
    )
    recovered = agreement(beyond, "above")
    yield Claim(
        claim="Long skips recover spatial information that is lost in downsampling.",
        source="Drozdzal et al. 2016, arXiv:1608.04117, abstract",
        found=f"rise of the error without them: at edges {format_points(edge)}; at edges minus inside "
        f"{format_difference(beyond)}",
        agrees="not shown" if recovered == "yes" and not edge.low > 0 else recovered,  # no loss at edges
    )
    overlap_lost = difference(runs, "overlap", full, none)
    yield Claim(
        claim="The U-Net segments better than the same network without any long skip.",
        source="Wilm et al. 2024, arXiv:2402.08276, abstract",
        found=f"overlap of {FULL} minus {NONE}: {format_difference(overlap_lost)}",
        agrees=agreement(overlap_lost, "above"),
    )


OVERLAP = Axis("overlap", "overlap with the digits", "share")
EDGE, INSIDE = Axis("edge_error", "error at edges", "share"), Axis("inside_error", "error inside", "share")
LEVEL, RISE = Axis("level", "level", "steps"), Axis("change", "rise of the error", "change")
SHOWN_LESIONS = {"variant": FULL, "batchnorm": "as trained"}
DISTANCE = Axis("distance", "pixels to the other class", "steps")
FIGURES = (
    Figure(
        name="overlap",
        heading="With and without each long skip (ablation)",
        how="Overlap: intersection over union of the digits' pixels on test canvases. Errors are balanced: the mean "
        "of the share of digit pixels missed and of the share of background taken for digit, so a constant "
        f"prediction has 50 %; at edges (next to a pixel of the other class) and inside (all others). {HOW_POINTS}",
        **points("runs", NETWORK, OVERLAP, EDGE, INSIDE, panel="depth"),
    ),
    Figure(
        name="lesions",
        heading="Replaced long skips and branches in the trained network (lesion)",
        how="Rise of the balanced error when the value of a long skip, or of the branch below it, is replaced "
        "without retraining: by zeros, or by noise with the mean and variance of its channels. Level 0 has the "
        "input's resolution. A value that carries only the position of edges would cost more at edges.",
        **points("carried", LEVEL, RISE, by="where", panel="lesion", where=SHOWN_LESIONS),
    ),
    Figure(
        name="zones",
        heading="Errors by distance to an edge",
        how="Share of wrong pixels among digit pixels and among background pixels, by the distance to the nearest "
        f"pixel of the other class; {MAX_DISTANCE} is {MAX_DISTANCE} or more. Zones of fewer than {MIN_PIXELS} "
        "pixels in some run are left out.",
        **points("zones", DISTANCE, Axis("wrong", "wrong pixels", "share"), panel="zone"),
    ),
    Figure(
        name="learning",
        heading="Training curves",
        how="Share of wrong pixels at the end of each epoch, in evaluation mode. Thin lines are seeds, the thick "
        "line is their mean, the band its 95 % interval.",
        **lines("curves", Axis("epoch", "epoch"), TRAIN_ERROR, TEST_ERROR, panel="depth"),
    ),
    Figure(
        name="routes",
        heading="Nonlinearities by route",
        how="All paths from input to output, by the long skip they take; bottom: those that take none. Max pools "
        "count as nonlinearities.",
        chart="table",
        table="routes",
    ),
    SKIPS,
    *CENSUS,
)

STUDY = Study.from_module(
    __name__,
    outcomes=(OVERLAP, EDGE, INSIDE, TRAIN_ERROR, TEST_ERROR),
    seed_invariant=(*STRUCTURE, "routes"),
    postprocess=postprocess,
    is_valid=is_valid,
    estimated_cost=estimated_cost,
)
