"""The page of a training: error and loss by epoch, a line a seed, beside what chance would give."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from skiplab.report.json_data import finite, inline
from skiplab.report.page import Page, Section
from skiplab.report.theme import MUTED, PALETTE, AnyChart, apply_theme


def train_page(
    title: str,
    sentences: Sequence[str],
    tables: tuple[pd.DataFrame, pd.DataFrame],
    chance: Mapping[str, float],
    facts: Mapping[str, Any],
) -> Page:
    """The page of one network's runs.

    tables: the curves (seed, epoch, and loss and error of both parts, a row an epoch) and the runs (a row a seed).
    chance: the error of the commonest class, `train` and `test`.
    """
    curves, runs = tables
    how = (
        "One colour a seed, at the end of each epoch in evaluation mode; solid on the training part, dashed on the "
        "test part. The grey line is the error of always saying the training part's commonest class, or its mean."
    )
    return Page(
        title=title,
        lead="Every sentence is computed from the runs below. Hover for the numbers.",
        sentences=sentences,
        sections=[
            Section(heading="Error and loss", how=how, content=run_curves(curves, chance["train"]), name="curves"),
            Section(heading="Runs", how="At the end of the last epoch.", content=runs),
        ],
        facts=facts,
    )


def run_curves(curves: pd.DataFrame, chance: float) -> AnyChart:
    """Error and loss by epoch, side by side.

    curves: seed, epoch, train_error, test_error (fractions), train_loss, test_loss (nats; drawn on a logarithmic axis,
    so that losses of zero are left out).
    """
    seeds = sorted({int(seed) for seed in curves["seed"]})
    colour = alt.Color(
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
    errors = alt.layer(line.encode(y=percent), word, _curve_lines(curves, "error", percent, colour))
    losses = _curve_lines(curves, "loss", log, colour)
    panels = [panel.properties(width=400, height=260) for panel in (errors, losses)]
    return apply_theme(alt.hconcat(*panels, spacing=40))


def _curve_lines(curves: pd.DataFrame, what: str, y: alt.Y, colour: alt.Color) -> alt.Chart:
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
            color=colour,
            strokeDash=alt.StrokeDash("of:N", title="measured on", sort=["training", "test"], legend=legend),
            tooltip=["seed:N", "epoch:Q", "of:N", alt.Tooltip("value:Q", format=".3g", title=what)],
        )
    )
