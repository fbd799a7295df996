"""The charts of skips in one specification: a click on a skip highlights it in all of them."""

from collections.abc import Iterator
from typing import Any, cast

import altair as alt
import pandas as pd

from skiplab.report.charts.arcs import arc_points
from skiplab.report.charts.bars import skip_bars
from skiplab.report.charts.diagram import LinkedCharts, arc_diagram
from skiplab.report.json_data import depth_choice, depths, variants
from skiplab.report.skip_table import skip_records
from skiplab.report.theme import apply_theme


def skip_charts(
    spine: pd.DataFrame,
    skips: pd.DataFrame,
    lesion: pd.DataFrame | None = None,
    contribution: pd.DataFrame | None = None,
    gradient: pd.DataFrame | None = None,
) -> alt.VConcatChart:
    """Each network's arc diagram, and below it bars of the measures of its skips; one selection links all charts.

    Frames (one row per network and operation, skip, or skip and seed; `depth` is 0 for a single model):

    - spine: variant, depth, order, name, module, kind, resolution (pixels or tokens along one side)
    - skips: variant, depth, id, path, combine, shortcut, fork, merge, weight_layers, activation_after, source,
      fork_order, merge_order, fork_resolution, merge_resolution
    - lesion: variant, depth, seed, id, order, loss_change (nats), error_change (fraction)
    - contribution: variant, depth, seed, id, ratio (‖F(x)‖/‖x‖, dimensionless), cosine (−1 to 1)
    - gradient: variant, depth, seed, id, gradient_norm (of the loss by the merge's value)

    The color of an arc is the loss change, or the kind of shortcut if no lesion was measured. A click on empty space
    clears the selection. The depth is initially the largest.
    """
    choices = depths(spine, skips)
    record = skip_records(skips, lesion, contribution, gradient)
    pick = alt.selection_point(name="pick", fields=["id"])
    linked = LinkedCharts(pick, record, arc_points(spine, skips), choices)
    measured = ((lesion, "loss_change"), (contribution, "ratio"), (gradient, "gradient_norm"))
    groups: list[Any] = []
    legends: set[str] = set()  # charts that have a legend already
    for name in variants(spine, skips):
        own = record[record["variant"] == name]
        parts: list[Any] = [
            arc_diagram(linked, name, spine[spine["variant"] == name], legend=_first("arcs", own, legends))
        ]
        for frame, column in measured:
            if frame is not None and own[f"{column}_text"].ne("not measured").any():
                parts.append(skip_bars(linked, name, frame, column, legend=_first(column, own, legends)))
        groups.append(alt.vconcat(*parts, spacing=4).resolve_scale(color="independent"))
    whole = alt.vconcat(*groups, spacing=24).resolve_scale(color="independent", strokeDash="independent")
    whole = whole.add_params(depth_choice(choices))
    if views := list(_named(whole)):
        whole.params = [*cast("list[Any]", whole.params), linked.selection(views)]
    return apply_theme(whole)


def _first(chart: str, own: pd.DataFrame, legends: set[str]) -> bool:
    """Whether a chart with skips is the first of its kind, which shows the legend for all."""
    first = len(own) > 0 and chart not in legends
    if first:
        legends.add(chart)
    return first


def _named(chart: Any) -> Iterator[str]:
    """The names, as changed by Altair, of all named parts of a chart."""
    for part in [*getattr(chart, "vconcat", []), *getattr(chart, "layer", [])]:
        if isinstance(part, alt.Chart) and isinstance(part.name, str):
            yield part.name
        else:
            yield from _named(part)
