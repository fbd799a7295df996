"""One bar per skip: a measure averaged over seeds, with a dot for each seed."""

from typing import Any

import altair as alt
import pandas as pd

from skiplab.report.charts.arcs import WIDTH
from skiplab.report.charts.diagram import DEPTH_FILTER, LinkedCharts
from skiplab.report.json_data import by_depth, finite, inline
from skiplab.report.skip_table import MEASURED
from skiplab.report.theme import ABOVE, ALARM, BELOW, FAINT, INK, ZERO, AnyChart, measured_scale

_OWN = ["variant", "depth", "id"]
_HEIGHT = 95


def skip_bars(linked: LinkedCharts, variant: str, seeds: pd.DataFrame, column: str, legend: bool) -> AnyChart:
    """One variant's skips, from input to output, by `column`; the vertical scale is shared by all variants.

    `seeds` holds all variants' measurements (variant, depth, seed, id, `column`). A cross at the top marks a skip
    for which a seed gave no finite number.
    """
    record = linked.of(variant)
    x = alt.X("rank:O", axis=alt.Axis(title=None, labelAngle=0, labelOverlap="greedy", ticks=False))
    y = alt.Y("value:Q", title=MEASURED[column], scale=_scale(seeds, column, linked.depths), axis=_axis())
    facts = ["id", "depth", "rank", f"{column}_lost", f"{column}_text"]
    shade = "cosine" if column == "ratio" else column
    shown = record[facts].assign(value=record[column], shade=record[shade], shade_text=record[f"{shade}_text"])
    base = alt.Chart(inline(shown)).transform_filter(DEPTH_FILTER)
    titles = {"id": "skip", f"{column}_text": MEASURED[column], "shade_text": MEASURED[shade]}
    tooltip = [alt.Tooltip(f"{name}:N", title=title) for name, title in titles.items()]
    picked = alt.when(linked.pick, empty=False)
    tooltip = tooltip[: 3 if shade != column else 2]
    bar = base.mark_bar(stroke=INK).encode(
        x=x,
        y=y,
        color=_color(linked.record, shade, legend),
        opacity=alt.when(linked.pick).then(alt.value(1)).otherwise(alt.value(0.15)),
        strokeWidth=picked.then(alt.value(1.5)).otherwise(alt.value(0)),
        tooltip=tooltip,
    )
    lost = base.transform_filter(f"datum.{column}_lost > 0").mark_text(text="✕", color=ALARM, fontSize=11)
    zero = alt.Chart(inline(pd.DataFrame({"value": [0.0]}))).mark_rule(color=FAINT).encode(y=y)
    layers: list[Any] = [zero, bar]
    if seeds["seed"].nunique() > 1:
        layers.append(_dots(linked, record, seeds, column, y))
    layers.append(lost.encode(x=x, y=alt.value(5), tooltip=tooltip[:2]))
    # The target of the pointer is the whole column of a skip, since a bar may be low and covered by dots.
    column_over = base.mark_bar(opacity=0, cursor="pointer").encode(
        x=x, y=alt.value(0), y2=alt.value(_HEIGHT), tooltip=tooltip
    )
    layers.append(column_over.properties(name=linked.view(column, variant)))
    return alt.layer(*layers).properties(width=WIDTH, height=_HEIGHT)


def _dots(linked: LinkedCharts, record: pd.DataFrame, seeds: pd.DataFrame, column: str, y: alt.Y) -> alt.Chart:
    """A dot for each seed's finite value."""
    own = seeds.assign(value=finite(seeds[column])).merge(record[[*_OWN, "rank"]], on=_OWN)
    own = own.loc[own["value"].notna(), ["depth", "id", "rank", "seed", "value"]]
    opacity = alt.when(linked.pick).then(alt.value(0.75)).otherwise(alt.value(0.08))
    tooltip = [alt.Tooltip("id:N", title="skip"), "seed:N", alt.Tooltip("value:Q", title=MEASURED[column])]
    # The rim keeps a dot visible on the darkest bars.
    dots = alt.Chart(inline(own)).transform_filter(DEPTH_FILTER)
    base = dots.mark_circle(size=14, color=INK, stroke="white", strokeWidth=0.6)
    return base.encode(x="rank:O", y=y, opacity=opacity, tooltip=tooltip)


def _scale(seeds: pd.DataFrame, column: str, depths: list[int]) -> alt.Scale:
    """The range of all variants' values at each depth, including zero."""
    values = finite(seeds[column]).groupby(seeds["depth"])
    highest, lowest = values.max(), values.min()
    tops = {depth: max(0.0, highest.get(depth, 0.0)) for depth in depths}
    bottoms = {depth: min(0.0, lowest.get(depth, 0.0)) for depth in depths}
    for depth in depths:
        span = tops[depth] - bottoms[depth]
        tops[depth] += 0.08 * span if span > 0 else 1.0
    return alt.Scale(domainMax=by_depth(tops), domainMin=by_depth(bottoms), nice=False)


def _axis() -> alt.Axis:
    return alt.Axis(tickCount=4, domain=False, ticks=False)


def _color(record: pd.DataFrame, shade: str, legend: bool) -> alt.Color:
    """The scale of the arcs for the loss change; −1 to 1 for the cosine."""
    if shade != "cosine":
        return alt.Color("shade:Q", scale=measured_scale(record[shade]), legend=None)
    scale = alt.Scale(domain=[-1, 0, 1], range=[BELOW, ZERO, ABOVE])
    shown = alt.Legend(
        title="cosine of F(x) and x", orient="top", gradientLength=160, gradientThickness=9, values=[-1, 0, 1]
    )
    return alt.Color("shade:Q", scale=scale, legend=shown if legend else None)
