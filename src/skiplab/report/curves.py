"""Charts of whole networks: training curves, error by depth, gradient by layer, and the census."""

import altair as alt
import pandas as pd

from skiplab.report.rows import depth_choice, depths, finite, inline, variants
from skiplab.report.theme import ALARM, AnyChart, dress, variant_scale

_PERCENT = ".0%"


def training_curves(curves: pd.DataFrame) -> AnyChart:
    """Training and test error by epoch, a thin line a seed, side by side for each depth.

    curves: variant, depth, seed, epoch, train_error, test_error (fractions), gradient_norm.
    """
    long = curves.melt(
        ["variant", "depth", "seed", "epoch"], ["train_error", "test_error"], var_name="of", value_name="error"
    )
    long["of"] = long["of"].map({"train_error": "training", "test_error": "test"})
    long["error"] = finite(long["error"])
    panels = []
    for depth in depths(long):
        panel = (
            alt.Chart(inline(long[long["depth"] == depth]), title=f"{depth} layers")
            .mark_line(opacity=0.75, strokeWidth=1.3)
            .encode(
                x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, grid=False)),
                y=alt.Y("error:Q", title="error", axis=alt.Axis(format=_PERCENT), scale=alt.Scale(domain=[0, 1])),
                color=_colour(long),
                strokeDash=alt.StrokeDash("of:N", title="measured on", sort=["training", "test"]),
                detail="seed:N",
                tooltip=[
                    "variant:N",
                    "depth:Q",
                    "seed:Q",
                    "epoch:Q",
                    "of:N",
                    alt.Tooltip("error:Q", format=".2%"),
                ],
            )
            .properties(width=_width(depths(long)), height=220)
        )
        panels.append(panel)
    return dress(alt.hconcat(*panels, spacing=18))


def error_by_depth(runs: pd.DataFrame, summary: pd.DataFrame) -> AnyChart:
    """Training and test error by depth: a point a seed, their mean, and its 95 % interval as a bar.

    runs: variant, depth, seed, status, train_error, test_error; summary: variant, depth, and for both errors
    mean, _low and _high. A run that diverged is a cross at the top.
    """
    panels = [
        _errors(runs, summary, "train_error", "training error"),
        _errors(runs, summary, "test_error", "test error"),
    ]
    return dress(alt.hconcat(*panels, spacing=30))


def _errors(runs: pd.DataFrame, summary: pd.DataFrame, column: str, title: str) -> AnyChart:
    choices = depths(runs)
    offset = alt.XOffset("variant:N", sort=variants(runs))
    x = alt.X("depth:O", title="weight layers", sort=choices, axis=alt.Axis(labelAngle=0, grid=False))
    means = summary[["variant", "depth", column]].rename(columns={column: "error"})
    means = means.assign(low=summary[f"{column}_low"].clip(0, 1), high=summary[f"{column}_high"].clip(0, 1))
    scale = alt.Scale(domain=[0, 1])
    y = alt.Y("error:Q", title=title, axis=alt.Axis(format=_PERCENT), scale=scale)
    mean = alt.Chart(inline(means)).encode(x=x, xOffset=offset, color=_colour(runs))
    interval = mean.mark_rule(strokeWidth=2, opacity=0.7).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    bar = mean.mark_tick(thickness=2.5, width=18).encode(
        y=y,
        tooltip=["variant:N", "depth:O", *(alt.Tooltip(f"{c}:Q", format=".2%") for c in ("error", "low", "high"))],
    )
    seeds = runs.assign(error=finite(runs[column]))
    point = (
        alt.Chart(inline(seeds[["variant", "depth", "seed", "error"]].dropna()))
        .mark_circle(size=26, opacity=0.9)
        .encode(
            x=x,
            xOffset=offset,
            y=y,
            color=_colour(runs),
            tooltip=["variant:N", "depth:O", "seed:Q", alt.Tooltip("error:Q", format=".2%")],
        )
    )
    lost = runs.loc[runs["status"] == "diverged", ["variant", "depth", "seed", "status"]].assign(error=1.0)
    cross = (
        alt.Chart(inline(lost))
        .mark_point(shape="cross", angle=45, size=90, filled=True, color=ALARM)
        .encode(x=x, xOffset=offset, y=y, tooltip=["variant:N", "depth:O", "seed:Q", "status:N"])
    )
    return alt.layer(interval, bar, point, cross).properties(width=430, height=260)


def gradient_by_layer(gradient: pd.DataFrame) -> AnyChart:
    """Norm of each weight layer's gradient, from input to output: a thin line a seed, the geometric mean thick.

    gradient: variant, depth, seed, when, layer, order, gradient_norm. The depth is chosen above the chart.
    """
    frame = gradient.assign(gradient_norm=finite(gradient["gradient_norm"]))
    frame = frame[frame["gradient_norm"] > 0]
    place = ["variant", "depth", "when"]
    frame = frame.assign(position=frame.groupby([*place, "seed"])["order"].rank(method="first"))
    frame = frame.drop(columns=[c for c in ("what", "gradient_norm_std", "relative", "order") if c in frame])
    choices = depths(frame)
    panels = []
    for when in [each for each in ("initialisation", "trained") if each in set(frame["when"])]:
        title = "at initialisation" if when == "initialisation" else "after training"
        panels.append(_gradients(frame[frame["when"] == when], title))
    return dress(alt.hconcat(*panels, spacing=30).resolve_scale(y="shared").add_params(depth_choice(choices)))


def _gradients(frame: pd.DataFrame, title: str) -> AnyChart:
    base = (
        alt.Chart(inline(frame), title=title)
        .transform_filter("datum.depth == depth")
        .encode(
            x=alt.X("position:Q", title="weight layer, from input to output", axis=alt.Axis(grid=False)),
            color=_colour(frame),
        )
    )
    y = alt.Y("gradient_norm:Q", title="‖∂loss/∂weights‖", scale=alt.Scale(type="log"), axis=alt.Axis(format=".0e"))
    shown = ["variant:N", "layer:N", alt.Tooltip("gradient_norm:Q", format=".3g")]
    seeds = base.mark_line(strokeWidth=0.8, opacity=0.45).encode(y=y, detail="seed:N", tooltip=[*shown, "seed:Q"])
    mean = (
        base.transform_calculate(log="log(datum.gradient_norm)")
        .transform_aggregate(log="mean(log)", groupby=["variant", "layer", "position", "depth"])
        .transform_calculate(gradient_norm="exp(datum.log)")
        .mark_line(strokeWidth=2.4)
        .encode(y=y, tooltip=shown)
    )
    return alt.layer(seeds, mean).properties(width=430, height=260)


def path_histogram(histogram: pd.DataFrame) -> AnyChart:
    """Share of all paths by the number of nonlinearities on them, one row a variant.

    histogram: variant, depth, nonlinearities, paths (decimal string), share. The depth is chosen above the chart.
    """
    names = variants(histogram)
    extent = alt.X("nonlinearities:Q", title="nonlinearities on the path", axis=alt.Axis(grid=False, tickMinStep=1))
    panels = [
        alt.Chart(inline(histogram[histogram["variant"] == name]), title=name)
        .transform_filter("datum.depth == depth")
        .mark_bar(width=5)
        .encode(
            x=extent,
            y=alt.Y("share:Q", title="share of paths", axis=alt.Axis(format=".0%", tickCount=3)),
            color=_colour(histogram, legend=False),
            tooltip=["variant:N", "nonlinearities:Q", "paths:N", alt.Tooltip("share:Q", format=".3g")],
        )
        .properties(width=900, height=70)
        for name in names
    ]
    chart = alt.vconcat(*panels, spacing=6).resolve_scale(x="shared").add_params(depth_choice(depths(histogram)))
    return dress(chart)


def _colour(frame: pd.DataFrame, legend: bool = True) -> alt.Color:
    return alt.Color(
        "variant:N",
        title="network",
        scale=variant_scale(variants(frame)),
        legend=alt.Legend(orient="top") if legend else None,
    )


def _width(choices: list[int]) -> int:
    return max(180, (960 - 60 * len(choices)) // len(choices))
