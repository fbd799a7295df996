"""Error and loss of one network by epoch, one line per seed."""

import altair as alt
import pandas as pd

from skiplab.report.json_data import finite, inline
from skiplab.report.theme import MUTED, PALETTE, AnyChart, apply_theme


def run_curves(curves: pd.DataFrame, chance: float) -> AnyChart:
    """Error and loss by epoch, side by side.

    curves: seed, epoch, train_error, test_error (fractions), train_loss, test_loss (nats; drawn on a logarithmic axis,
    so that losses of zero are left out).
    """
    seeds = sorted({int(seed) for seed in curves["seed"]})
    color = alt.Color(
        "seed:N",
        title="seed",
        scale=alt.Scale(domain=seeds, range=[PALETTE[i % len(PALETTE)] for i in range(len(seeds))]),
        legend=alt.Legend(orient="top"),
    )
    percent = alt.Y("value:Q", title="error", axis=alt.Axis(format=".0%"), scale=alt.Scale(domain=[0, 1], clamp=True))
    log = alt.Y("value:Q", title="loss (nats)", scale=alt.Scale(type="log"), axis=alt.Axis(format="~g", tickCount=5))
    line = alt.Chart(inline(pd.DataFrame({"value": [chance]}))).mark_rule(color=MUTED, strokeDash=[2, 3])
    word = line.mark_text(align="left", dy=-7, x=4, color=MUTED, fontSize=11).encode(
        y=percent, text=alt.value("chance")
    )
    errors = alt.layer(line.encode(y=percent), word, _curve_lines(curves, "error", percent, color))
    losses = _curve_lines(curves, "loss", log, color)
    panels = [panel.properties(width=400, height=260) for panel in (errors, losses)]
    return apply_theme(alt.hconcat(*panels, spacing=40))


def _curve_lines(curves: pd.DataFrame, what: str, y: alt.Y, color: alt.Color) -> alt.Chart:
    parts = {f"train_{what}": "training", f"test_{what}": "test"}
    long = curves.melt(["seed", "epoch"], list(parts), var_name="of", value_name="value")
    long["of"] = long["of"].map(parts)
    long["value"] = finite(long["value"])
    if what == "loss":
        long = long[long["value"] > 0]
    legend = alt.Legend(orient="top", symbolType="stroke", symbolSize=300)
    return (
        alt.Chart(inline(long))
        .mark_line(strokeWidth=1.6, opacity=0.85, point=alt.OverlayMarkDef(size=18))
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, grid=False)),
            y=y,
            color=color,
            strokeDash=alt.StrokeDash("of:N", title="measured on", sort=["training", "test"], legend=legend),
            tooltip=["seed:N", "epoch:Q", "of:N", alt.Tooltip("value:Q", format=".3g", title=what)],
        )
    )
