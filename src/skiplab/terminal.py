"""What the command line prints for people: tables that fit 80 columns, and sentences."""

import math
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from skiplab.paths import Census
from skiplab.skips import Skip, Skips

_WITNESS = 40  # steps of the lightest path that are shown
_PIPE_WIDTH = 200  # a file or a pipe has no edge at which a line would have to break


def stdout() -> Console:
    """Results go here. Where stdout is no terminal, lines are not folded to 80 columns."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, soft_wrap=False)


def stderr() -> Console:
    """Progress and messages go here."""
    return Console(stderr=True, highlight=False)


def skips_table(skips: Skips, width: int) -> Table:
    """One row a skip. The path is its id less the number, and is left out where it would repeat the id."""
    table = _table()
    show_path = width >= 100
    for heading, options in _columns(show_path):
        table.add_column(heading, **options)
    for skip in skips:
        after = skip.activation_after or "–"
        cells = [
            skip.id,
            skip.path or ".",
            skip.combine,
            skip.shortcut,
            str(skip.weight_layers),
            after,
            where(skip),
        ]
        table.add_row(*(cells if show_path else cells[:1] + cells[2:]))
    return table


def _columns(show_path: bool) -> list[tuple[str, dict]]:
    return [
        ("id", {"overflow": "fold"}),
        *([("path", {"overflow": "fold"})] if show_path else []),
        ("combine", {"no_wrap": True}),
        ("shortcut", {"no_wrap": True}),
        ("layers", {"justify": "right", "no_wrap": True}),
        ("then", {"no_wrap": True}),
        ("file:line", {"overflow": "fold"}),
    ]


def where(skip: Skip) -> str:
    """The merge's line: its file relative to the working folder, or by name alone when it is elsewhere."""
    if skip.source is None:
        return "unknown"
    file, _, line = skip.source.rpartition(":")
    path = Path(file)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(path.name)
    return f"{shown}:{line}"


def skips_line(skips: Skips) -> str:
    """ "16 skips: 12 add/identity, 4 add/projection"."""
    kinds = Counter(f"{skip.combine}/{skip.shortcut}" for skip in skips)
    text = f"{len(skips)} skip{'' if len(skips) == 1 else 's'}"
    if kinds:
        text += ": " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    apart = Counter(each.reason for each in skips.apart)
    return text + "".join(f"; apart: {count} {reason}" for reason, count in apart.items())


def census_lines(census: Census) -> list[str]:
    """The census in three lines."""
    by_kind = census.nonlinearities.by_kind
    kinds = ", ".join(f"{kind.replace('_', '-')} {_span(r.min, r.max)}" for kind, r in by_kind.items() if r.max)
    counted = "" if "norm" in census.counted or not by_kind["norm"].max else ", norms not counted"
    total = _span(census.nonlinearities.min, census.nonlinearities.max)
    lightest = census.fewest
    witness = [step.module or step.name for step in lightest.steps if step.kind in ("weight", *census.counted)]
    return [
        f"paths: {big(census.paths)}, each through {_span(census.weight_layers.min, census.weight_layers.max)} "
        "weight layers",
        f"nonlinearities on a path: {total}{counted}" + (f" ({kinds})" if kinds else ""),
        f"lightest path: {lightest.nonlinearities} nonlinearities, {lightest.weight_layers} weight layers: "
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


def summary_table(summary: pd.DataFrame) -> Table:
    """One row a network: errors with half of their 95 % interval, size, skips, lightest path."""
    table = _table()
    table.add_column("network", no_wrap=True)
    for heading in ("train error %", "test error %", "parameters", "skips", "lightest path"):
        table.add_column(heading, justify="right")
    for row in summary.to_dict("records"):
        diverged = f" ({row['diverged']} diverged)" if row["diverged"] else ""
        errors = [_percent(row[e], row[f"{e}_low"], row[f"{e}_high"]) for e in ("train_error", "test_error")]
        sizes = [f"{row['parameters']:,}", str(row["skips"]), str(row["fewest"])]
        table.add_row(f"{row['variant']}-{row['depth']}{diverged}", *errors, *sizes)
    return table


def _percent(mean: float, low: float, high: float) -> str:
    if not math.isfinite(mean):
        return "–"
    half = (high - low) / 2
    return f"{100 * mean:.1f}" + (f" ± {100 * half:.1f}" if math.isfinite(half) else "")


def _table() -> Table:
    return Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))


def witness_table(census: Census) -> Table:
    """The steps of the lightest path that are more than a view."""
    table = _table()
    for heading in ("lightest path", "what", "kind"):
        table.add_column(heading, overflow="fold")
    steps = [step for step in census.fewest.steps if step.kind != "view"]
    shown = steps if len(steps) <= _WITNESS else [*steps[: _WITNESS // 2], None, *steps[-_WITNESS // 2 :]]
    for step in shown:
        if step is None:
            table.add_row("…", f"{len(steps) - _WITNESS} more", "(--json has all)")
        else:
            table.add_row(step.module or ".", step.target, step.kind.replace("_", "-"))
    return table
