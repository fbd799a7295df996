"""The frontier of a pruning: error or loss of each smaller network, by its size and by its latency."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from skiplab.report.json_data import finite, inline
from skiplab.report.theme import FAINT, INK, PALETTE, AnyChart, apply_theme

_WIDTH = 340


def frontier_chart(
    frontier: pd.DataFrame, chosen: int | None = None, trained: Mapping[str, Any] | None = None
) -> AnyChart:
    """Error or loss of each network by the number of remaining blocks, and by latency. Bars: 95 % intervals.

    frontier: one row per network with blocks, share, removed, parameters, flops, latency_ratio, and loss or metric with
    `_low` and `_high`. A ring marks the row `chosen`; `trained` is that network's row after training.
    """
    name = "metric" if "metric" in frontier else "loss"
    rows = frontier.assign(number=range(len(frontier)), network="original")
    if trained is not None and chosen is not None:
        after = {**frontier.iloc[chosen].to_dict(), **trained, "number": chosen, "network": "fine-tuned"}
        rows = pd.concat([rows, pd.DataFrame([after])], ignore_index=True)
    for column in (name, f"{name}_low", f"{name}_high"):
        rows[column] = finite(rows[column])
    title = "error" if name == "metric" else "loss"
    left = _frontier_panel(
        rows, chosen, name, alt.X("blocks:Q", title="blocks left", scale=alt.Scale(reverse=True)), title
    )
    scale = alt.Scale(zero=False, reverse=True)
    right = _frontier_panel(
        rows, chosen, name, alt.X("latency_ratio:Q", title="time, original network = 1", scale=scale), title
    )
    return apply_theme(alt.hconcat(left, right, spacing=30).properties(title="Cost and saving of each removal"))


def _frontier_panel(rows: pd.DataFrame, chosen: int | None, name: str, x: alt.X, title: str) -> AnyChart:
    base = alt.Chart(inline(rows)).encode(x=x, tooltip=_tooltip(rows, name, title))
    y = alt.Y(f"{name}:Q", title=title, scale=alt.Scale(zero=True))
    networks = [each for each in ("original", "fine-tuned") if each in set(rows["network"])]
    scale = alt.Scale(domain=networks, range=[PALETTE[1], PALETTE[0]][: len(networks)])
    legend = alt.Legend(orient="top", title=None) if len(networks) > 1 else None
    color = alt.Color("network:N", scale=scale, legend=legend)
    line = base.transform_filter("datum.network == 'original'").mark_line(color=FAINT).encode(y=y, order="number:Q")
    ends = base.mark_rule(strokeWidth=1.2, opacity=0.6).encode(
        y=alt.Y(f"{name}_low:Q", title=title), y2=f"{name}_high:Q", color=color
    )
    points = base.mark_circle(size=45, opacity=1).encode(y=y, color=color)
    layers: list[Any] = [line, ends, points]
    if chosen is not None:
        ring = base.transform_filter(f"datum.number == {chosen} && datum.network == 'original'")
        layers.append(ring.mark_point(size=170, color=INK, strokeWidth=1.4, filled=False).encode(y=y))
    return alt.layer(*layers).properties(width=_WIDTH, height=240)


def _tooltip(rows: pd.DataFrame, name: str, title: str) -> list[alt.Tooltip]:
    known = {"removed": ("removed last", "N", ""), "blocks": ("blocks left", "Q", "d")}
    known |= {"parameters": ("parameters", "Q", ","), "flops": ("FLOPs a sample", "Q", ",")}
    known |= {"latency_ratio": ("time", "Q", ".2f"), name: (title, "Q", ".4g")}
    known |= {f"{name}_low": ("from", "Q", ".4g"), f"{name}_high": ("to", "Q", ".4g")}
    return [
        alt.Tooltip(f"{column}:{kind}", title=heading, format=form or alt.Undefined)
        for column, (heading, kind, form) in known.items()
        if column in rows
    ]
