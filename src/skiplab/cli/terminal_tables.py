"""Tables for the terminal, readable in 80 columns."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.table import Table

from skiplab.analysis.chart_data import remarks
from skiplab.analysis.path_census import Census
from skiplab.analysis.skips import Skips
from skiplab.cli.lines import source_line
from skiplab.stats.columns import Column
from skiplab.stats.wording import memory

_MAX_PATH_OPS = 40  # rows in the table of the most linear path
_MAX_ROWS = 40  # rows in the table of a measure


def skips_table(skips: Skips, width: int) -> Table:
    """One row per skip; below 100 columns without the path, which mostly repeats the id."""
    table = _table()
    show_path, show_more = width >= 100, any(remarks(skip) for skip in skips)
    for heading, options in _columns(show_path, show_more):
        table.add_column(heading, **options)
    for skip in skips:
        cells = {
            "id": skip.id,
            "path": skip.path or ".",
            "combine": skip.combine,
            "shortcut": skip.shortcut,
            "layers": str(skip.weight_layers),
            "then": skip.activation_after or "–",
            "more": remarks(skip),
            "file:line": source_line(skip.source),
        }
        table.add_row(*(cells[heading] for heading, _ in _columns(show_path, show_more)))
    return table


def _columns(show_path: bool, show_more: bool) -> list[tuple[str, dict]]:
    return [
        ("id", {"overflow": "fold"}),
        *([("path", {"overflow": "fold"})] if show_path else []),
        ("combine", {"no_wrap": True}),
        ("shortcut", {"no_wrap": True}),
        ("layers", {"justify": "right", "no_wrap": True}),
        ("then", {"no_wrap": True}),
        *([("more", {"overflow": "fold"})] if show_more else []),
        ("file:line", {"overflow": "fold"}),
    ]


def non_skips_table(skips: Skips) -> Table:
    """One row per non-skip."""
    table = _table()
    for heading in ("non-skip", "path", "why", "file:line"):
        table.add_column(heading, overflow="fold")
    for each in skips.non_skips:
        table.add_row(each.reason, each.path or ".", each.detail, source_line(each.source))
    return table


def _table() -> Table:
    return Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))


def plain_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of texts: the first column left-aligned, the others right-aligned."""
    table = _table()
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def witness_table(census: Census) -> Table:
    """The ops of the most linear path, without views; the middle of a long path is left out."""
    table = _table()
    for heading in ("most linear path", "op", "kind"):
        table.add_column(heading, overflow="fold")
    steps = [step for step in census.most_linear.steps if step.kind != "view"]
    shown = (
        steps if len(steps) <= _MAX_PATH_OPS else [*steps[: _MAX_PATH_OPS // 2], None, *steps[-_MAX_PATH_OPS // 2 :]]
    )
    for step in shown:
        if step is None:
            table.add_row("…", f"{len(steps) - _MAX_PATH_OPS} more", "(--json has all)")
        else:
            table.add_row(step.module or ".", step.target, step.kind.replace("_", "-"))
    return table


def measured_table(measured: pd.DataFrame, shown: Sequence[Column]) -> Table:
    """The rows of a measure; the middle of many rows and uninformative columns are left out."""
    columns = [each for each in shown if each.name in measured and _is_informative(measured[each.name], each)]
    table = _table()
    for each in columns:
        is_text = each.form == "text" or measured[each.name].dtype.kind not in "iuf"
        table.add_column(each.heading, justify="left" if is_text else "right", overflow="fold")
    rows = measured.to_dict("records")
    cut = len(rows) - _MAX_ROWS if len(rows) > _MAX_ROWS + 1 else 0
    for row in rows[: _MAX_ROWS // 2] if cut else rows:
        table.add_row(*(_cell(row, each) for each in columns))
    if cut:
        table.add_row(f"… {cut} more")
        for row in rows[-_MAX_ROWS // 2 :]:
            table.add_row(*(_cell(row, each) for each in columns))
    return table


def _is_informative(column: pd.Series, shown: Column) -> bool:
    """Whether a column has values, and not the same text in every row."""
    return bool(column.notna().any()) and (shown.form != "text" or len(column) == 1 or column.nunique() > 1)


def _cell(row: Mapping[Hashable, Any], shown: Column) -> str:
    value = row[shown.name]
    if isinstance(value, str):
        return value
    if value is None or not math.isfinite(value):
        return "–" if value is None or math.isnan(value) else str(value)
    match shown.form:
        case "share":
            return f"{value:.1%}"
        case "bytes":
            return memory(float(value))
        case "std" if math.isfinite(row[f"{shown.name}_std"]):
            return f"{value:.3g} ± {row[f'{shown.name}_std']:.2g}"
        case "interval" if math.isfinite(row[f"{shown.name}_low"]):
            return f"{value:.3g} ({row[f'{shown.name}_low']:.3g} to {row[f'{shown.name}_high']:.3g})"
        case _:
            return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
