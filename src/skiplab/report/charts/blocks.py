"""Panels with one position per block, from the network's input to its output: the parts of charts of measures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from skiplab.report.json_data import finite, inline
from skiplab.report.theme import ALARM, FAINT, INK, PALETTE, AnyChart, apply_theme

_WIDTH = 860


class Blocks:
    """The blocks of a table, in the order of the network, and their axis."""

    def __init__(self, table: pd.DataFrame, name: str = "id") -> None:
        ordered = table.sort_values("order", kind="stable")
        self.name = name
        self.ids = list(dict.fromkeys(ordered[name].astype(str)))
        self.step = min(56.0, max(3.0, _WIDTH / max(1, len(self.ids))))

    def x(self, labels: bool = True) -> alt.X:
        """The axis of blocks, with as many labels as fit."""
        every = math.ceil(17 / self.step)
        shown = alt.Axis(
            title=None, labelAngle=-40, labelLimit=110, ticks=False, grid=False, values=self.ids[::every], domain=False
        )
        return alt.X(
            f"{self.name}:N", sort=self.ids, axis=shown if labels else None, scale=alt.Scale(paddingInner=0.25)
        )

    def panel(self, *layers: Any, height: int = 130) -> AnyChart:
        return alt.layer(*layers).properties(width=alt.Step(self.step), height=height)

    def tooltip(self, **columns: str) -> list[alt.Tooltip]:
        """Tooltips of the block's id and of columns, given as column=title."""
        shown = [alt.Tooltip(f"{self.name}:N", title="block")]
        return shown + [alt.Tooltip(f"{column}:Q", title=title, format=".4g") for column, title in columns.items()]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """How bars show a column of a table.

    Attributes:
        column: the numbers.
        title: of the axis.
        ends: the two columns of an interval, or the one column of a deviation, drawn as a line around the bar's end.
        color: of the bars; None is one color for all.
        form: number format of the axis, in d3's syntax.
        scale: of the axis.
        labels: whether the blocks' ids are shown.
    """

    column: str
    title: str
    ends: tuple[str, str] | str | None = None
    color: alt.Color | None = None
    form: Any = alt.Undefined
    scale: Any = alt.Undefined
    labels: bool = True


def block_bars(blocks: Blocks, table: pd.DataFrame, quantity: Quantity, *more: alt.Chart) -> AnyChart:
    """Bars from zero, with `more` on top, and a cross for a value that is not finite."""
    column, title = quantity.column, quantity.title
    frame = _with_interval(table, quantity)
    x = blocks.x(quantity.labels)
    axis = alt.Axis(tickCount=4, domain=False, ticks=False, format=quantity.form)
    y = alt.Y(f"{column}:Q", title=title, axis=axis, scale=quantity.scale)
    shown = {column: title, **({"low": "from", "high": "to"} if "low" in frame else {})}
    base, color = alt.Chart(inline(frame)), quantity.color or alt.value(PALETTE[1])
    layers: list[Any] = [
        base.mark_bar().encode(x=x, y=y, color=color, tooltip=blocks.tooltip(**shown)),
        reference_line(),
    ]
    if "low" in frame:
        rule = base.mark_rule(color=INK, strokeWidth=1.2).transform_filter("isValid(datum.low) && isValid(datum.high)")
        layers.append(rule.encode(x=x, y=alt.Y("low:Q", title=title), y2="high:Q"))
    return blocks.panel(*layers, *more, _crosses(blocks, frame, column))


def _crosses(blocks: Blocks, table: pd.DataFrame, column: str) -> alt.Chart:
    """A cross at the top for each block whose value is infinite or NaN."""
    lost = table[finite(table[column]).isna()]
    tooltip = [alt.Tooltip(f"{blocks.name}:N", title="block: not finite")]
    return (
        alt.Chart(inline(lost[[blocks.name]].astype("str")))
        .mark_text(text="✕", color=ALARM, fontSize=10)
        .encode(x=alt.X(f"{blocks.name}:N", sort=blocks.ids), y=alt.value(6), tooltip=tooltip)
    )


def reference_line(at: float = 0.0, color: str = FAINT) -> alt.Chart:
    """A horizontal line at a reference value."""
    return alt.Chart(inline(pd.DataFrame({"at": [at]}))).mark_rule(color=color).encode(y=alt.Y("at:Q"))


def subtitle(text: str) -> alt.TitleParams:
    """The title of one panel of several."""
    return alt.TitleParams(text, fontSize=11, fontWeight="normal", frame="group", offset=4)


def stacked(title: str, panels: Sequence[AnyChart]) -> alt.VConcatChart:
    """A column of panels under one title."""
    return apply_theme(alt.vconcat(*panels, spacing=14, title=title).resolve_scale(color="independent"))


def _with_interval(table: pd.DataFrame, quantity: Quantity) -> pd.DataFrame:
    frame, ends = table.assign(**{quantity.column: finite(table[quantity.column])}), quantity.ends
    if isinstance(ends, str):
        middle, deviation = frame[quantity.column], finite(table[ends])
        return frame.assign(low=middle - deviation, high=middle + deviation)
    return frame if ends is None else frame.assign(low=finite(table[ends[0]]), high=finite(table[ends[1]]))
