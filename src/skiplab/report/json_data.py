"""DataFrames as JSON rows inside a chart."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import altair as alt
import pandas as pd


def inline(frame: pd.DataFrame, digits: int = 4) -> alt.InlineData:
    """The frame as data inside the chart: floats to `digits` significant digits, NaN and infinity as null.

    The rows are one JSON string that Vega parses. Altair would copy and validate every row of a list several times;
    inline data also bypasses its global transformers and row limit.
    """
    names = [str(column) for column in frame.columns]
    cells = (zip(names, row, strict=True) for row in frame.itertuples(index=False, name=None))
    rows = [{name: cell(value, digits) for name, value in row} for row in cells]
    text = json.dumps(rows, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return alt.InlineData(values=text, format=alt.JsonDataFormat(type="json"))


def cell(value: Any, digits: int = 4) -> str | int | float | bool | None:
    """A cell as JSON; missing and non-finite values are null."""
    if value is None or isinstance(value, str | bool):
        return value
    if hasattr(value, "item"):  # numpy's scalars
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value if isinstance(value, int) else str(value)


def finite(column: pd.Series) -> pd.Series:
    """The column as floats with infinities as NaN, so that means and extremes skip them."""
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    return numbers.where(numbers.abs() != math.inf)


def depths(*frames: pd.DataFrame | None) -> list[int]:
    """All depths in the frames, ascending; `[0]` if there are none."""
    found = {int(depth) for frame in frames if frame is not None for depth in frame["depth"].unique()}
    return sorted(found) or [0]


def variants(*frames: pd.DataFrame | None) -> list[str]:
    """All variants in the frames: `plain` first, then alphabetically."""
    found = {str(name) for frame in frames if frame is not None for name in frame["variant"].unique()}
    return sorted(found, key=lambda name: (name != "plain", name))


def depth_choice(choices: list[int]) -> alt.Parameter:
    """The parameter `depth`, initially the largest; a dropdown if there is a choice."""
    if len(choices) < 2:
        return alt.param(name="depth", value=choices[-1])
    return alt.param(name="depth", value=choices[-1], bind=alt.binding_select(options=choices, name="Depth "))


def by_depth(values: Mapping[int, float] | Iterable[tuple[int, float]]) -> alt.ExprRef:
    """An expression for the number of the selected depth."""
    table = ",".join(f"'{depth}':{cell(float(value))}" for depth, value in dict(values).items())
    return alt.ExprRef(expr=f"{{{table}}}[depth]")


def number(value: Any, missing: str = "not finite") -> str:
    """A number as text with four significant digits; `missing` for a value that is missing or not finite."""
    shown = cell(value)
    return missing if shown is None else f"{shown:,}" if isinstance(shown, int) else f"{shown:.4g}"
