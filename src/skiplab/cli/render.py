"""What the command line prints for people: tables that fit 80 columns, and sentences."""

import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from skiplab.analysis.chart_data import remarks
from skiplab.analysis.differ import Difference, trait
from skiplab.analysis.path_census import Census
from skiplab.analysis.skips import Skip, Skips
from skiplab.linter import Findings
from skiplab.stats.columns import Column
from skiplab.stats.wording import memory
from skiplab.verification import Proof

_WITNESS = 40  # ops of the most linear path that are shown
_MEASURED = 40  # rows of a measure's table that are shown
_PIPE_WIDTH = 200  # a file or a pipe has no edge at which a line would have to break


def stdout() -> Console:
    """Results go here. Where stdout is no terminal, lines are not folded to 80 columns."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, soft_wrap=False)


def stderr() -> Console:
    """Progress and messages go here."""
    return Console(stderr=True, highlight=False)


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on stderr, gone when done; a function that is told (done, total)."""
    console = stderr()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class TimedProgress:
    """Bars on a console with the time that is left, gone when done, and none where there is no terminal.

    Use as a context manager; `columns` stand between a bar and its times.
    """

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            *columns,
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.started = time.monotonic()

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def line(self, text: str) -> None:
        """A line above the bars that stays, with the seconds so far."""
        self.console.print(f"[{time.monotonic() - self.started:6.1f} s] {text}", markup=False, highlight=False)


def skips_table(skips: Skips, width: int) -> Table:
    """One row a skip. The path is its id less the number, and is left out where it would repeat the id."""
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
            "file:line": where(skip.source),
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
    """One row for each op at which paths of the signal meet without a skip."""
    table = _table()
    for heading in ("non-skip", "path", "why", "file:line"):
        table.add_column(heading, overflow="fold")
    for each in skips.non_skips:
        table.add_row(each.reason, each.path or ".", each.detail, where(each.source))
    return table


def where(source: str | None) -> str:
    """A line of source: its file relative to the working folder, or by name alone when it is elsewhere."""
    if source is None:
        return "unknown"
    file, _, line = source.rpartition(":")
    path = Path(file)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(path.name)
    return f"{shown}:{line}"


def skips_line(skips: Skips) -> str:
    """ "16 skips: 12 add/identity, 4 add/projection"."""
    kinds = Counter(f"{skip.combine}/{skip.shortcut}" for skip in skips)
    text = f"{len(skips)} skip{'' if len(skips) == 1 else 's'}"
    if kinds:
        text += ": " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    others = Counter(each.reason for each in skips.non_skips)
    return text + "".join(f"; non-skips: {count} {reason}" for reason, count in others.items())


def proof_lines(proof: Proof) -> list[str]:
    """How many skips are proved, and why each other one is not."""
    proved = len(proof.rows) - len(proof.failures)
    lines = [
        f"proved: {proved} of {len(proof.rows)} at {proof.points} random points in float64, largest relative "
        f"deviation {proof.deviation:.1g}"
    ]
    return lines + [f"not proved: {row.id}, recorded as {row.claimed}: {row.reason}" for row in proof.failures]


def difference_lines(difference: Difference) -> list[str]:
    """A line for each skip removed, added and changed, and their number."""
    lines = [f"- {_kind(skip)}" for skip in difference.removed] + [f"+ {_kind(skip)}" for skip in difference.added]
    for change in difference.changed:
        fields = [f"{n} {_told(trait(change.before, n))} → {_told(trait(change.after, n))}" for n in change.fields]
        lines.append(f"~ {change.after.id}: {', '.join(fields).replace('_', ' ')}")
    for (path, reason), count in difference.non_skips.items():
        lines.append(f"{'+' if count > 0 else '-'} non-skips: {abs(count)} {reason} in {path or 'the root'}")
    if not lines:
        return ["no difference"]
    counts = len(difference.removed), len(difference.added), len(difference.changed)
    return [*lines, "skips: {} removed, {} added, {} changed".format(*counts)]


def _kind(skip: Skip) -> str:
    return f"{skip.id}: {skip.combine}/{skip.shortcut} around {skip.weight_layers} weight layers ({where(skip.source)})"


def _told(value: object) -> str:
    if isinstance(value, tuple):
        return "·".join(map(str, value)) or "none"
    return {"True": "yes", "False": "no", "None": "none"}.get(str(value), str(value))


def findings_lines(findings: Findings) -> list[str]:
    """Each finding in a few lines, then the notes on what could not be checked."""
    lines = []
    for finding in findings:
        lines += [
            f"{finding.rule} in {finding.path or 'the root'} ({where(finding.source)})",
            f"  {finding.what}",
            f"  why: {finding.why}",
            f"  fix: {finding.fix}",
            f"  see: {finding.reference}",
            "",
        ]
    lines += [f"not checked: {note}" for note in findings.notes]
    return [*lines, f"{len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}"]


def census_lines(census: Census) -> list[str]:
    """The census in three lines."""
    by_kind = census.nonlinearities.by_kind
    kinds = ", ".join(f"{kind.replace('_', '-')} {_span(r.min, r.max)}" for kind, r in by_kind.items() if r.max)
    counted = "" if "norm" in census.counted or not by_kind["norm"].max else ", norms not counted"
    total = _span(census.nonlinearities.min, census.nonlinearities.max)
    path = census.most_linear
    witness = [step.module or step.name for step in path.steps if step.kind in ("weight", *census.counted)]
    return [
        f"paths: {big(census.paths)}, each through {_span(census.weight_layers.min, census.weight_layers.max)} "
        "weight layers",
        f"nonlinearities on a path: {total}{counted}" + (f" ({kinds})" if kinds else ""),
        f"most linear path: {path.nonlinearities} nonlinearities, {path.weight_layers} weight layers: "
        + _abridged(witness),
    ]


def _abridged(names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    if len(names) > 6:
        names = [*names[:3], "…", *names[-2:]]
    return " → ".join(names) or "nothing on it"


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def big(number: int) -> str:
    """An exact integer, with its power of two beside it, or that alone where the digits would fill lines."""
    power = f"2^{number.bit_length() - 1}" if number and number & (number - 1) == 0 else f"about 2^{_log2(number):.1f}"
    if number < 10**5:
        return f"{number:,}"
    return f"{number:,} ({power})" if number < 10**21 else power


def _log2(number: int) -> float:
    shift = max(0, number.bit_length() - 60)
    return shift + math.log2(number >> shift) if number else 0.0


def _table() -> Table:
    return Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))


def plain_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Cells as they are, to the right but for the first column."""
    table = _table()
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def witness_table(census: Census) -> Table:
    """The ops of the most linear path, without views."""
    table = _table()
    for heading in ("most linear path", "op", "kind"):
        table.add_column(heading, overflow="fold")
    steps = [step for step in census.most_linear.steps if step.kind != "view"]
    shown = steps if len(steps) <= _WITNESS else [*steps[: _WITNESS // 2], None, *steps[-_WITNESS // 2 :]]
    for step in shown:
        if step is None:
            table.add_row("…", f"{len(steps) - _WITNESS} more", "(--json has all)")
        else:
            table.add_row(step.module or ".", step.target, step.kind.replace("_", "-"))
    return table


def measured_table(measured: pd.DataFrame, shown: Sequence[Column]) -> Table:
    """A measure's rows, the middle left out where there are too many, and columns that say nothing left out."""
    columns = [each for each in shown if each.name in measured and _tells(measured[each.name], each)]
    table = _table()
    for each in columns:
        is_text = each.form == "text" or measured[each.name].dtype.kind not in "iuf"
        table.add_column(each.heading, justify="left" if is_text else "right", overflow="fold")
    rows = measured.to_dict("records")
    cut = len(rows) - _MEASURED if len(rows) > _MEASURED + 1 else 0
    for row in rows[: _MEASURED // 2] if cut else rows:
        table.add_row(*(_value(row, each) for each in columns))
    if cut:
        table.add_row(f"… {cut} more")
        for row in rows[-_MEASURED // 2 :]:
            table.add_row(*(_value(row, each) for each in columns))
    return table


def _tells(column: pd.Series, shown: Column) -> bool:
    """A word that stands in every row, such as the only kind of lesion, is no column's worth."""
    return bool(column.notna().any()) and (shown.form != "text" or len(column) == 1 or column.nunique() > 1)


def _value(row: Mapping[Hashable, Any], shown: Column) -> str:
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
