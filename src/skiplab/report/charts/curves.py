"""Charts of whole networks: training curves, gradient by layer, and the census."""

import altair as alt
import pandas as pd

from skiplab.report.json_data import depth_choice, depths, finite, inline, variants
from skiplab.report.theme import AnyChart, apply_theme, variant_scale

_PERCENT = ".0%"


def training_curves(curves: pd.DataFrame, panel: str | None = "depth") -> AnyChart:
    """Training and test error by epoch, one thin line per seed, one panel for each value of `panel`.

    curves: variant, seed, epoch, train_error, test_error (fractions), and `panel`.
    """
    places = ["variant", *([panel] if panel else []), "seed", "epoch"]
    long = curves.melt(places, ["train_error", "test_error"], var_name="of", value_name="error")
    long["of"] = long["of"].map({"train_error": "training", "test_error": "test"})
    long["error"] = finite(long["error"])
    found = list(dict.fromkeys(long[panel])) if panel else [None]
    top = max(1.0, float(long["error"].max()))  # an unexplained share of the variance may be above 1
    panels = []
    for value in found:
        own = long if value is None else long[long[panel] == value]
        title = "" if value is None else f"{value} layers" if panel == "depth" else f"{panel} {value}".replace("_", " ")
        chart = (
            alt.Chart(inline(own), title=title)
            .mark_line(opacity=0.75, strokeWidth=1.3)
            .encode(
                x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, grid=False)),
                y=alt.Y("error:Q", title="error", axis=alt.Axis(format=_PERCENT), scale=alt.Scale(domain=[0, top])),
                color=_color(long),
                strokeDash=alt.StrokeDash("of:N", title="measured on", sort=["training", "test"]),
                detail="seed:N",
                tooltip=["variant:N", "seed:Q", "epoch:Q", "of:N", alt.Tooltip("error:Q", format=".2%")],
            )
            .properties(width=_width(len(found)), height=220)
        )
        panels.append(chart)
    return apply_theme(alt.hconcat(*panels, spacing=18))


def gradient_by_layer(gradient: pd.DataFrame) -> AnyChart:
    """Norm of each weight layer's gradient, from input to output: a thin line per seed, the geometric mean thick.

    gradient: variant, depth, seed, when, layer, order, gradient_norm. The depth is selected above the chart.
    """
    frame = gradient.assign(gradient_norm=finite(gradient["gradient_norm"]))
    frame = frame[frame["gradient_norm"] > 0]
    place = ["variant", "depth", "when"]
    frame = frame.assign(position=frame.groupby([*place, "seed"])["order"].rank(method="first"))
    frame = frame.drop(columns=[c for c in ("what", "gradient_norm_std", "relative", "order") if c in frame])
    choices = depths(frame)
    panels = []
    for when in [each for each in ("initialization", "trained") if each in set(frame["when"])]:
        title = "at initialization" if when == "initialization" else "after training"
        panels.append(_gradients(frame[frame["when"] == when], title))
    return apply_theme(alt.hconcat(*panels, spacing=30).resolve_scale(y="shared").add_params(depth_choice(choices)))


def _gradients(frame: pd.DataFrame, title: str) -> AnyChart:
    base = (
        alt.Chart(inline(frame), title=title)
        .transform_filter("datum.depth == depth")
        .encode(
            x=alt.X("position:Q", title="weight layer, from input to output", axis=alt.Axis(grid=False)),
            color=_color(frame),
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
    """Share of all paths by their number of nonlinearities, one row per variant.

    histogram: variant, depth, nonlinearities, paths (decimal string), share. The depth is selected above the chart.
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
            color=_color(histogram, legend=False),
            tooltip=["variant:N", "nonlinearities:Q", "paths:N", alt.Tooltip("share:Q", format=".3g")],
        )
        .properties(width=900, height=70)
        for name in names
    ]
    chart = alt.vconcat(*panels, spacing=6).resolve_scale(x="shared").add_params(depth_choice(depths(histogram)))
    return apply_theme(chart)


def _color(frame: pd.DataFrame, legend: bool = True) -> alt.Color:
    return alt.Color(
        "variant:N",
        title="network",
        scale=variant_scale(variants(frame)),
        legend=alt.Legend(orient="top") if legend else None,
    )


def _width(panels: int) -> int:
    return max(180, (960 - 60 * panels) // panels)
