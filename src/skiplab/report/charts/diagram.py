"""The arc diagram of one network: its spine, and every skip as an arc from its fork to its merge."""

import json
import math
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from skiplab.report.charts.arcs import HEIGHT, WIDTH, log2
from skiplab.report.json_data import inline, variants
from skiplab.report.skip_table import FACTS, MEASURED
from skiplab.report.theme import FAINT, INK, MUTED, AnyChart, measured_scale

DEPTH_FILTER = "datum.depth == depth"
_DASHES = {"identity": [1, 0], "resample": [7, 3], "projection": [2, 2], "gated": [9, 3, 2, 3]}
_KINDS = {"identity": "#0072b2", "resample": "#009e73", "projection": "#d55e00", "gated": "#cc79a7"}


@dataclass(frozen=True)
class LinkedCharts:
    """Data shared by the charts of one specification: selection, records and arcs of all skips, and depths."""

    pick: alt.Parameter
    record: pd.DataFrame
    points: pd.DataFrame
    depths: list[int]

    def of(self, variant: str) -> pd.DataFrame:
        """The records of one variant's skips, with the position of each arc's top (top_x, top_y)."""
        tops = self.points.sort_values("y").drop_duplicates("key", keep="last")[["key", "x", "y"]]
        own = self.record[self.record["variant"] == variant]
        return own.merge(tops.rename(columns={"x": "top_x", "y": "top_y"}), on="key", how="left")

    def view(self, chart: str, variant: str) -> str:
        """A unique name for one variant's chart. Altair appends `_` and a number, which alone is not unique."""
        return f"{chart}-{variants(self.record).index(variant)}"

    def selection(self, views: list[str]) -> alt.TopLevelSelectionParameter:
        """The selection of the whole specification: a click in any of these views sets it."""
        select = alt.PointSelectionConfig(type="point", fields=["id"])
        return alt.TopLevelSelectionParameter(name=self.pick.name, select=select, views=views)


def arc_diagram(linked: LinkedCharts, variant: str, spine: pd.DataFrame, legend: bool) -> AnyChart:
    """One variant's arc diagram. x: order of the operations. y: resolution in octaves, the highest on top."""
    record = linked.of(variant)
    points = linked.points[linked.points["key"].isin(record["key"])]
    place = spine.assign(level=[log2(float(value)) for value in spine["resolution"]])
    heights = [y for y in [*place["level"], *points["y"]] if math.isfinite(y)] or [0.0]
    margin = 0.06 * (max(heights) - min(heights)) or 0.5
    scale = alt.Scale(domain=[min(heights) - margin, max(heights) + margin], nice=False, zero=False)
    axis = alt.Axis(
        title="resolution",
        values=_tick_levels(place["level"]),
        labelExpr="round(pow(2, datum.value) * 10) / 10",
        labelOverlap="greedy",
    )
    y = alt.Y("y:Q", scale=scale, axis=axis)
    layers: list[Any] = _spine(place, y)
    if len(points):
        layers += _arcs(linked, variant, points, y, legend)
    title = alt.TitleParams(text=_title(variant, record, linked.depths))
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT if len(points) else HEIGHT // 2.5, title=title)


def _spine(place: pd.DataFrame, y: alt.Y) -> list[alt.Chart]:
    """The network's operations in order: a line with a dot per operation."""
    columns = place.rename(columns={"order": "x", "level": "y"})[["depth", "x", "y", "name", "module", "kind"]]
    columns = columns.assign(resolution=[f"{value:g}" for value in place["resolution"]])
    x = alt.X("x:Q", axis=alt.Axis(title=None, labels=False, ticks=False, grid=False), scale=alt.Scale(nice=False))
    base = alt.Chart(inline(columns[columns["y"].notna()])).transform_filter(DEPTH_FILTER)
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("name", "module", "kind", "resolution")]
    line = base.mark_line(color=FAINT, strokeWidth=2, interpolate="step-after").encode(x=x, y=y, order="x:Q")
    dots = base.mark_circle(color=MUTED, opacity=1, size=9).encode(x=x, y=y, tooltip=tooltip)
    return [line, dots]


def _arcs(linked: LinkedCharts, variant: str, points: pd.DataFrame, y: alt.Y, legend: bool) -> list[alt.Chart]:
    """The visible arcs, wide invisible ones as targets of the pointer, and the name of the selected one."""
    record = linked.of(variant)
    source = alt.LookupData(data=inline(_arc_records(record)), key="key", fields=["depth", *_fields(record)])
    base = (
        alt.Chart(inline(points, digits=5))
        .transform_lookup(lookup="key", from_=source)
        .transform_filter(DEPTH_FILTER)
        .encode(x="x:Q", y=y, detail="key:N", order="step:Q")
    )
    picked = alt.when(linked.pick, empty=False)
    seen = base.mark_line(strokeCap="butt").encode(
        color=_color(linked.record, legend),
        strokeDash=_dash(linked.record, legend),
        opacity=alt.when(linked.pick).then(alt.value(0.95)).otherwise(alt.value(0.13)),
        strokeWidth=picked.then(alt.value(4)).otherwise(alt.value(2)),
    )
    tooltip = [alt.Tooltip(f"{name}:N", title=title) for name, title in _fields(record).items() if title]
    wide = base.mark_line(opacity=0, strokeWidth=9, cursor="pointer").encode(tooltip=tooltip)
    wide = wide.properties(name=linked.view("arcs", variant))
    name = (
        alt.Chart(inline(record[["depth", "id", "top_x", "top_y"]], digits=5))
        .transform_filter(DEPTH_FILTER)
        .mark_text(dy=-8, fontSize=11, fontWeight="bold", color=INK)
        .encode(x="top_x:Q", y="top_y:Q", text="id:N", opacity=picked.then(alt.value(1)).otherwise(alt.value(0)))
    )
    return [seen, name, wide]


def _fields(record: pd.DataFrame) -> dict[str, str]:
    """The columns of an arc's record, each with its title in the tooltip ("" for none)."""
    measured = {f"{column}_text": title for column, title in MEASURED.items() if column in record}
    return FACTS | measured | ({"loss_change": ""} if "loss_change" in record else {})


def _arc_records(record: pd.DataFrame) -> pd.DataFrame:
    return record[["key", "depth", *_fields(record)]]


def _color(record: pd.DataFrame, legend: bool) -> Any:
    """Color by the loss change if it was measured (gray where it is missing), else by the kind of shortcut."""
    if "loss_change" not in record:
        kinds = _used_styles(record, _KINDS)
        scale = alt.Scale(domain=list(kinds), range=list(kinds.values()))
        shown = alt.Legend(title="shortcut", orient="top", symbolType="stroke", symbolStrokeWidth=3)
        return alt.Color("shortcut:N", scale=scale, legend=shown if legend else None)
    shown = alt.Legend(title="loss change when lesioned", orient="top", gradientLength=160, gradientThickness=9)
    color = alt.Color("loss_change:Q", scale=measured_scale(record["loss_change"]), legend=shown if legend else None)
    return alt.when("isValid(datum.loss_change)").then(color).otherwise(alt.value(FAINT))


def _dash(record: pd.DataFrame, legend: bool) -> alt.StrokeDash:
    """Dashes by the kind of shortcut."""
    dashes = _used_styles(record, _DASHES)
    scale = alt.Scale(domain=list(dashes), range=list(dashes.values()))
    if "loss_change" not in record:
        return alt.StrokeDash("shortcut:N", scale=scale, legend=None)  # the legend of colors shows the kinds
    shown = alt.Legend(title="shortcut", orient="top", symbolType="stroke", symbolSize=400, symbolStrokeWidth=2)
    return alt.StrokeDash("shortcut:N", scale=scale, legend=shown if legend else None)


def _used_styles(record: pd.DataFrame, looks: dict[str, Any]) -> dict[str, Any]:
    """The styles of the kinds that occur; an unknown kind has the first style."""
    found = set(record["shortcut"])
    first = next(iter(looks.values()))
    known = {kind: look for kind, look in looks.items() if kind in found}
    return known | dict.fromkeys(sorted(found - set(looks)), first)


def _tick_levels(levels: pd.Series) -> list[float]:
    """Ticks of the axis: the network's resolutions, or powers of two if there are many."""
    own = sorted({round(level, 4) for level in levels if math.isfinite(level)})
    if len(own) <= 10:
        return own
    return [float(power) for power in range(math.floor(own[0]), math.ceil(own[-1]) + 1)]


def _title(variant: str, record: pd.DataFrame, depths: list[int]) -> Any:
    """The network's name, the selected depth, and its number of skips."""
    counts = record["depth"].value_counts()
    texts = {}
    for depth in depths:
        count = int(counts.get(depth, 0))
        what = f"{count} skip connection{'' if count == 1 else 's'}" if count else "no skip connections"
        texts[str(depth)] = f"{variant}, depth {depth}: {what}" if depth else f"{variant}: {what}"
    return alt.ExprRef(expr=f"{json.dumps(texts)}[depth]")
