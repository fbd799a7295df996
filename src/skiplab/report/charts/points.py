"""Charts of runs: points over categories and lines over numbers, with mean and interval."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from skiplab.report.figure_spec import PERCENT, Axis, Figure
from skiplab.report.json_data import finite, inline, variants
from skiplab.report.theme import ALARM, AnyChart, apply_theme, variant_scale

WIDTH = 960  # of a row of panels
_SPACING = 30


def points(figure: Figure, rows: pd.DataFrame, means: pd.DataFrame) -> AnyChart:
    """One point per seed, their mean as a tick, its 95 % interval as a line, and a cross for a diverged run.

    rows: the figure's columns and seed; runs whose column status (if any) is "diverged" are crosses. means: for each
    y its mean, and the ends of its interval in y_low and y_high.
    """
    return apply_theme(_panels(figure, rows, means, _point_panel))


def lines(figure: Figure, rows: pd.DataFrame, means: pd.DataFrame) -> AnyChart:
    """A thin line per seed over x, a thick line for the mean, its 95 % interval as a band; columns as for `points`."""
    return apply_theme(_panels(figure, rows, means, _line_panel))


def _panels(figure: Figure, rows: pd.DataFrame, means: pd.DataFrame, draw: Any) -> alt.VConcatChart:
    """One row of panels per y, with one panel for each value of the figure's panel column."""
    found = [None] if figure.panel is None else list(dict.fromkeys(rows[figure.panel]))
    across = len(found) if len(found) > 1 else len(figure.y)
    width = max(170, (WIDTH - 70 * across) // across)
    charts = []
    for axis in figure.y:
        for value in found:
            own, mean = (frame if value is None else frame[frame[figure.panel] == value] for frame in (rows, means))
            title = "" if value is None else f"{figure.panel} {value}".replace("_", " ")
            charts.append(draw(figure, axis, own, mean).properties(width=width, height=240, title=title))
    per_row = max(1, min(across, 4))
    grid = [alt.hconcat(*charts[i : i + per_row], spacing=_SPACING) for i in range(0, len(charts), per_row)]
    return alt.vconcat(*grid, spacing=_SPACING)


def _point_panel(figure: Figure, axis: Axis, rows: pd.DataFrame, means: pd.DataFrame) -> Any:
    x, offset, order = _category_axis(figure, rows)
    y = _y_axis(axis, rows)
    base = {"x": x, "color": _color(figure, rows), **offset}
    shown = _mean_and_interval(means, axis)
    mean = alt.Chart(inline(shown)).encode(**base)
    interval = mean.mark_rule(strokeWidth=2, opacity=0.7).encode(y=y, y2="high:Q").transform_filter("datum.low != null")
    interval = interval.encode(y=_y_axis(axis, rows, "low"))
    tips = [alt.Tooltip(f"{c}:Q", format=_format(axis)) for c in ("value", "low", "high")]
    tick = mean.mark_tick(thickness=2.5, width=18).encode(y=y, tooltip=[*_tooltips(order), *tips])
    seeds = rows.assign(value=finite(rows[axis.column]))
    columns = list(dict.fromkeys([*order, "seed", "value"]))
    point = (
        alt.Chart(inline(seeds[columns].dropna(subset=["value"])))
        .mark_circle(size=26, opacity=0.9)
        .encode(y=y, tooltip=[*_tooltips([*order, "seed"]), alt.Tooltip("value:Q", format=_format(axis))], **base)
    )
    layers = [interval, tick, point]
    lost = rows[rows["status"] == "diverged"] if "status" in rows else rows.iloc[:0]
    if len(lost):
        cross = (
            alt.Chart(inline(lost[list(dict.fromkeys([*order, "seed", "status"]))]))
            .mark_point(shape="cross", angle=45, size=90, filled=True, color=ALARM)
            .encode(x=x, y=alt.value(4), tooltip=_tooltips([*order, "seed", "status"]), **offset)
        )
        layers.append(cross)
    return alt.layer(*layers)


def _category_axis(figure: Figure, rows: pd.DataFrame) -> tuple[alt.X, dict[str, Any], list[str]]:
    """The encodings of a point's category (x, and the offset of its color), and their columns."""
    if figure.x is None or figure.x.column == figure.by:
        order = _category_order(figure.by, rows) if figure.x is None else list(dict.fromkeys(rows[figure.by]))
        angle = -35 if len(order) > 4 else 0
        title = None if figure.x is None else figure.x.title
        return (
            alt.X(f"{figure.by}:N", title=title, sort=order, axis=alt.Axis(labelAngle=angle, grid=False)),
            {},
            [figure.by],
        )
    column = figure.x.column
    choices = list(dict.fromkeys(rows[column]))
    crowded = len(choices) > 4 and any(isinstance(choice, str) for choice in choices)
    axis = alt.Axis(labelAngle=-35 if crowded else 0, grid=False)
    x = alt.X(f"{column}:O", title=figure.x.title, sort=choices, axis=axis)
    return x, {"xOffset": alt.XOffset(f"{figure.by}:N", sort=_category_order(figure.by, rows))}, [figure.by, column]


def _line_panel(figure: Figure, axis: Axis, rows: pd.DataFrame, means: pd.DataFrame) -> Any:
    assert figure.x is not None, "lines go over an x"
    column, y = figure.x.column, _y_axis(axis, rows)
    scale = alt.Scale(type="log", nice=False, padding=6) if figure.x.kind == "log" else alt.Scale(zero=False)
    ticks = _x_axis(figure.x, rows)
    base = {"x": alt.X(f"{column}:Q", title=figure.x.title, scale=scale, axis=ticks), "color": _color(figure, rows)}
    order = [figure.by, column]
    seeds = rows.assign(value=finite(rows[axis.column]))
    if axis.kind == "log":
        seeds = seeds[seeds["value"] > 0]
    thin = (
        alt.Chart(inline(_by_seed(seeds, [*order, "seed"], axis)))
        .mark_line(strokeWidth=0.8, opacity=0.35)
        .encode(y=y, detail="seed:N", **base)
    )
    mean = alt.Chart(inline(_mean_and_interval(means, axis).dropna(subset=["value"]))).encode(**base)
    band = mean.mark_area(opacity=0.15).encode(y=_y_axis(axis, rows, "low"), y2="high:Q")
    tips = [alt.Tooltip(f"{c}:Q", format=_format(axis)) for c in ("value", "low", "high")]
    crowded = rows[column].nunique() > 30  # then dots would hide the lines
    thick = mean.mark_line(strokeWidth=2.2, point=False if crowded else alt.OverlayMarkDef(size=22)).encode(
        y=y, tooltip=[*_tooltips(order), *tips]
    )
    return alt.layer(band, thin, thick)


def _x_axis(x: Axis, rows: pd.DataFrame) -> alt.Axis:
    """As many ticks as are legible, and none between whole numbers."""
    if x.kind == "share":
        return alt.Axis(grid=False, format="%")
    if x.kind == "log":
        return alt.Axis(grid=False, tickCount=4, labelOverlap=True)
    if not pd.api.types.is_integer_dtype(rows[x.column]):
        return alt.Axis(grid=False)
    values = sorted(rows[x.column].unique().tolist())
    if len(values) <= 4:  # a minimum step of 1 would still give halves
        return alt.Axis(grid=False, values=values, format=",d")
    return alt.Axis(grid=False, tickMinStep=1)


def _by_seed(rows: pd.DataFrame, places: list[str], axis: Axis) -> pd.DataFrame:
    """One value per seed and point: the mean of several rows, the geometric mean on a logarithmic axis."""
    known = rows.dropna(subset=["value"])
    if axis.kind == "log":
        known = known.assign(value=np.log(known["value"]))
    found = known.groupby(list(dict.fromkeys(places)), sort=False, as_index=False)[["value"]].mean()
    return found.assign(value=np.exp(found["value"])) if axis.kind == "log" else found


def _mean_and_interval(means: pd.DataFrame, axis: Axis) -> pd.DataFrame:
    """Mean and interval as columns value, low and high; the interval of a share is clipped to the axis."""
    low, high = finite(means[f"{axis.column}_low"]), finite(means[f"{axis.column}_high"])
    if axis.kind == "share":
        low, high = low.clip(lower=0), high.clip(upper=max(1.0, float(finite(means[axis.column]).max())))
    kept = [name for name in means if not str(name).endswith(("_low", "_high"))]
    return means[kept].assign(value=finite(means[axis.column]), low=low, high=high)


def _y_axis(axis: Axis, rows: pd.DataFrame, column: str = "value") -> alt.Y:
    if axis.kind == "log":
        return alt.Y(
            f"{column}:Q", title=axis.title, scale=alt.Scale(type="log"), axis=alt.Axis(format=".0e", tickCount=6)
        )
    values = finite(rows[axis.column])
    scale = alt.Scale(zero=bool(values.min() >= 0), nice=True)
    ticks = alt.Axis(format="%") if axis.kind in PERCENT else alt.Axis()  # "~g" would write 50 as 5e+1
    return alt.Y(f"{column}:Q", title=axis.title, scale=scale, axis=ticks)


def _format(axis: Axis) -> str:
    return ".2%" if axis.kind in PERCENT else ".3g"


def _category_order(column: str, rows: pd.DataFrame) -> list[Any]:
    return variants(rows) if column == "variant" else list(dict.fromkeys(rows[column]))


def _color(figure: Figure, rows: pd.DataFrame) -> alt.Color:
    names = [str(name) for name in _category_order(figure.by, rows)]
    legend = (
        None
        if figure.x is None or figure.x.column == figure.by
        else alt.Legend(orient="top", columns=6, symbolOpacity=1)
    )
    title = None if figure.by == "variant" else figure.by.replace("_", " ")
    return alt.Color(f"{figure.by}:N", title=title, scale=variant_scale(names), legend=legend)


def _tooltips(columns: list[str]) -> list[Any]:
    """Tooltips of the columns that identify a run."""
    return [alt.Tooltip(f"{column}:N") for column in columns]
