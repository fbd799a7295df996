"""Charts of whole networks: gradients, path lengths, correlations, similarity."""

import math

import altair as alt
import pandas as pd

from skiplab.report.charts.blocks import Blocks, stacked
from skiplab.report.json_data import finite, inline
from skiplab.report.theme import MUTED, PALETTE, AnyChart, apply_theme
from skiplab.stats.band import band
from skiplab.stats.intervals import t_interval

_PARTS = {"gradient_norm": "at the merge", "shortcut_norm": "by the shortcut", "branch_norm": "by the branch"}
_CELL = 560  # side of the heat map


def gradient_chart(table: pd.DataFrame) -> AnyChart:
    """Norm of the gradient by weight layer, and by skip with its parts through shortcut and branch.

    table: what, name, network, order, gradient_norm, shortcut_norm, branch_norm.
    """
    panels: list[AnyChart] = []
    weights = table[table["what"] == "weight"]
    weights = weights.assign(gradient_norm=_positive(weights["gradient_norm"]))
    weights = weights.assign(position=weights.groupby("network")["order"].rank(method="first"))
    if weights["gradient_norm"].notna().any():
        panels.append(_weight_panel(weights))
    skips = table[table["what"] == "skip"]
    if len(skips):
        panels.append(_skip_panel(skips))
    return stacked("Gradient by layer, and its parts through shortcut and branch", panels)


def _weight_panel(weights: pd.DataFrame) -> AnyChart:
    names = list(dict.fromkeys(weights["network"]))
    color = alt.Color(
        "network:N",
        scale=alt.Scale(domain=names, range=[PALETTE[i % len(PALETTE)] for i in (1, 0, 2, 3)][: len(names)]),
        legend=alt.Legend(orient="top") if len(names) > 1 else None,
    )
    tooltip = [alt.Tooltip("name:N", title="layer"), "network:N", alt.Tooltip("gradient_norm:Q", format=".3g")]
    y = alt.Y("gradient_norm:Q", title="‖∂loss/∂W‖", scale=alt.Scale(type="log", nice=False), axis=_power_axis())
    x = alt.X("position:Q", title="weight layer, from input to output", axis=alt.Axis(grid=False, tickMinStep=1))
    line = alt.Chart(inline(weights)).mark_line(point=alt.OverlayMarkDef(size=18)).encode(x=x, y=y, color=color)
    return line.encode(tooltip=tooltip).properties(width=860, height=170)


def _skip_panel(skips: pd.DataFrame) -> AnyChart:
    """The skips of the first network in the table, which is the original one if it was measured."""
    own = skips[skips["network"] == skips["network"].iloc[0]]
    blocks = Blocks(own, "name")
    long = own.melt(["name", "order"], list(_PARTS), var_name="way", value_name="norm")
    long = long.assign(way=long["way"].map(_PARTS), norm=_positive(long["norm"])).dropna(subset=["norm"])
    scale = alt.Scale(domain=list(_PARTS.values()), range=[MUTED, PALETTE[1], PALETTE[0]])
    base = alt.Chart(inline(long)).encode(
        x=blocks.x(),
        y=alt.Y("norm:Q", title="‖∂loss/∂value‖", scale=alt.Scale(type="log", nice=False), axis=_power_axis()),
        color=alt.Color("way:N", title=None, scale=scale, legend=alt.Legend(orient="top")),
        tooltip=[*blocks.tooltip(norm="norm"), "way:N"],
    )
    return blocks.panel(base.mark_line(opacity=0.7), base.mark_circle(size=36, opacity=1)).properties(height=190)


def lengths_chart(table: pd.DataFrame) -> AnyChart:
    """Share of the gradient and share of all paths by their number of branches; bars on top: 95 % of each.

    table: length, weight, path_share.
    """
    names = {"weight": "gradient", "path_share": "paths"}
    frame = table.sort_values("length")
    frame = frame[["length"]].assign(**{column: finite(frame[column]).fillna(0.0) for column in names})
    long = frame.melt(["length"], list(names), var_name="of", value_name="share").replace({"of": names})
    bands = pd.DataFrame(
        [(names[column], *band(frame, column), row) for row, column in enumerate(names)],
        columns=["of", "from", "to", "row"],
    )
    color = alt.Color(
        "of:N",
        title="share of the",
        scale=alt.Scale(domain=list(names.values()), range=[PALETTE[0], PALETTE[1]]),
        legend=alt.Legend(orient="top", symbolOpacity=1),
    )
    x = alt.X("length:Q", title="branches on the path", axis=alt.Axis(grid=False, tickMinStep=1))
    y = alt.Y("share:Q", title="share", axis=alt.Axis(format=".0%", tickCount=4), stack=None)
    tooltip = ["of:N", "length:Q", alt.Tooltip("share:Q", format=".3g")]
    area = alt.Chart(inline(long)).mark_area(opacity=0.25, line=True, point=True).encode(x=x, y=y, color=color)
    span = (
        alt.Chart(inline(bands))
        .mark_rule(strokeWidth=5)
        .encode(
            x=alt.X("from:Q", axis=None),
            x2="to:Q",
            y=alt.Y("row:Q", axis=alt.Axis(title="95 %", values=[], domain=False), scale=alt.Scale(domain=[-0.6, 1.6])),
            color=color,
            tooltip=["of:N", alt.Tooltip("from:Q", title="95 % from"), alt.Tooltip("to:Q", title="to")],
        )
    )
    panels = [span.properties(width=860, height=26), area.encode(tooltip=tooltip)]
    chart = alt.vconcat(panels[0], panels[1].properties(width=860, height=220), spacing=8)
    title = "Length of the paths that carry the gradient, and of all paths"
    return apply_theme(chart.resolve_scale(x="shared", color="shared").properties(title=title))


def shattering_chart(table: pd.DataFrame) -> AnyChart:
    """Correlation of the gradients at two inputs, by the distance between the inputs: one line per network.

    The band is the 95 % interval of the mean over samples by Student's t, as in the sentences about this table.

    table: network, distance, samples, correlation, correlation_std.
    """
    mean, deviation = finite(table["correlation"]), finite(table["correlation_std"])
    ends = [t_interval(*row) for row in zip(mean, deviation, table["samples"], strict=True)]
    low, high = zip(*ends, strict=True)
    frame = table.assign(correlation=mean, low=low, high=high)
    names = list(dict.fromkeys(frame["network"]))
    scale = alt.Scale(domain=names, range=[PALETTE[i] for i in (1, 0, 2, 3)][: len(names)])
    base = alt.Chart(inline(frame)).encode(
        x=alt.X("distance:Q", title="distance, relative to the input's norm", scale=alt.Scale(type="log", nice=False)),
        color=alt.Color("network:N", scale=scale, legend=alt.Legend(orient="top", symbolOpacity=1)),
    )
    limits = alt.Scale(domain=[min(0.0, float(frame["low"].min(skipna=True) or 0)), 1])
    title = "correlation of gradients"
    band = base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q", title=title, scale=limits), y2="high:Q")
    tooltip = ["network:N", "distance:Q", alt.Tooltip("correlation:Q", format=".3f"), "samples:Q"]
    line = base.mark_line(point=True).encode(y=alt.Y("correlation:Q", title=title, scale=limits), tooltip=tooltip)
    whole = alt.layer(band, line).properties(width=560, height=240)
    return stacked("Correlation of the gradients of nearby inputs", [whole])


def similarity_chart(table: pd.DataFrame) -> AnyChart:
    """CKA of every two blocks' outputs as a heat map.

    table: id, other, order, other_order, cka.
    """
    blocks = Blocks(table)
    step = min(24.0, _CELL / max(1, len(blocks.ids)))
    every = math.ceil(13 / step)
    axis = {"title": None, "ticks": False, "domain": False, "values": blocks.ids[::every], "labelLimit": 110}
    chart = (
        alt.Chart(inline(table.assign(cka=finite(table["cka"]))))
        .mark_rect()
        .encode(
            x=alt.X("id:N", sort=blocks.ids, axis=alt.Axis(labelAngle=-40, **axis)),
            y=alt.Y("other:N", sort=blocks.ids, axis=alt.Axis(**axis)),
            color=alt.Color(
                "cka:Q",
                title="CKA",
                scale=alt.Scale(domain=[0, 1], clamp=True, scheme=alt.SchemeParams(name="viridis")),
            ),
            tooltip=["id:N", "other:N", alt.Tooltip("cka:Q", format=".3f")],
        )
        .properties(width=alt.Step(step), height=alt.Step(step))
    )
    return apply_theme(chart.properties(title="Similarity of the outputs of blocks"))


def _positive(values: pd.Series) -> pd.Series:
    """The values with NaN for those that a logarithmic axis cannot show."""
    numbers = finite(values)
    return numbers.where(numbers > 0)


def _power_axis() -> alt.Axis:
    return alt.Axis(format=".0e", tickCount=4)
