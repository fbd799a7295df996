"""Run a study: all cells of its grid, then the tables, sentences and claims of all runs."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skiplab.report.figure_spec import Axis
from skiplab.stats.intervals import student
from skiplab.study import claims, sentences
from skiplab.study.grid import Cell, Listener, run_grid
from skiplab.study.question import Grid, Study, Tables
from skiplab.study.result import Result, library_versions
from skiplab.study.run_cell import load_tables, run_and_save

STRUCTURE = ("paths", "fewest", "skips")  # columns of the census that the summary shows next to the outcomes


def run_study(
    study: Study, grid: Grid, store: Path, workers: int, listener: Listener, *, fresh: bool = False
) -> Result:
    """Train and measure every network of the grid; finished runs in `store` are repeated only if `fresh`."""
    cells = study.cells(grid)
    folders = run_grid(cells, partial(run_and_save, study.work), store, workers, listener, fresh=fresh)
    tables = study.postprocess(_collect_tables(cells, folders, (*grid.axes,), study.seed_invariant))
    return make_result(study, grid, tables)


def make_result(study: Study, grid: Grid, tables: Tables) -> Result:
    """Add the summary and the means of figures to the tables, and compute sentences and claims from them."""
    axes = tuple(grid.axes)
    tables = {"summary": summarize(tables, axes, study.outcomes), **tables, **_figure_means(study, tables, axes)}
    lines = (
        *sentences.diverged_sentences(tables["runs"], axes),
        *study.sentences(tables),
        *sentences.unlearned_sentences(tables["runs"], axes),
        *sentences.parameter_sentences(tables["runs"], axes),
    )
    tables["claims"] = claims.claims_table(study.claims(tables))
    settings = {**asdict(grid), "variants": list(grid.variants or study.variants)}
    return Result(
        study=study.name,
        question=study.question,
        method=study.method,
        sentences=lines,
        tables=tables,
        config=settings,
        versions=library_versions(),
        figures=study.figures,
        outcomes=study.outcomes,
    )


def _collect_tables(
    cells: list[Cell], folders: dict[str, Path], axes: tuple[str, ...], seed_invariant: tuple[str, ...]
) -> Tables:
    """Concatenate the tables of all cells; of seed-invariant tables, keep those of one seed per network."""
    parts: dict[str, list[pd.DataFrame]] = {}
    seen: set[tuple[Any, ...]] = set()
    for cell in cells:
        network = {name: cell.config[name] for name in ("variant", *axes)}
        for name, table in load_tables(folders[cell.label]).items():
            if (name, *network.values()) in seen:
                continue
            if name in seed_invariant:
                seen.add((name, *network.values()))
            keys = network if name in seed_invariant else {**network, "seed": cell.config["seed"]}
            parts.setdefault(name, []).append(_with_keys(table, keys))
    return {name: _concatenate(tables) for name, tables in parts.items()}


def _with_keys(table: pd.DataFrame, keys: dict[str, Any]) -> pd.DataFrame:
    """The table with the run's keys (variant, axes, seed) as its first columns."""
    columns = {name: [value] * len(table) for name, value in keys.items()}
    return pd.concat([pd.DataFrame(columns, index=table.index), table], axis=1)


def _concatenate(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate tables. Empty ones are dropped if any has rows: their columns have no types."""
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]


def summarize(tables: Tables, axes: tuple[str, ...], outcomes: Iterable[Axis]) -> pd.DataFrame:
    """One row per network: mean and 95 % interval of each outcome over the seeds that did not diverge, and its size."""
    runs, by = tables["runs"], ["variant", *axes]
    grouped = runs.groupby(by, sort=False)
    found = interval_table(runs, by, outcomes)
    counts = grouped.agg(
        seeds=("seed", "size"),
        diverged=("status", lambda s: int((s == "diverged").sum())),
        parameters=("parameters", "first"),
    )
    found = found.merge(counts.reset_index(), on=by)
    if "census" in tables:
        found = found.merge(tables["census"][[*by, *STRUCTURE]], on=by, how="left")
    return found


def interval_table(table: pd.DataFrame, by: list[str], columns: Iterable[Axis]) -> pd.DataFrame:
    """Mean and 95 % interval (Student's t) over seeds: for each column c also c_low and c_high.

    The mean of a column with kind "log" is the geometric mean. Several rows of one seed are averaged first.
    """
    columns = list(columns)
    rows = [
        dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True)) | dict(_interval_row(group, columns))
        for key, group in table.groupby(by, sort=False, dropna=False)
    ]
    names = [f"{axis.column}{end}" for axis in columns for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=[*by, *names])


def _interval_row(group: pd.DataFrame, columns: list[Axis]) -> Iterator[tuple[str, float]]:
    for axis in columns:
        values = group[axis.column].astype(float)
        if axis.kind == "log":
            values = values.where(values > 0).map(np.log)
        found = student(values.groupby(group["seed"]).mean())
        for end, value in (("", found.mean), ("_low", found.low), ("_high", found.high)):
            yield f"{axis.column}{end}", float(np.exp(value)) if axis.kind == "log" else value


def _figure_means(study: Study, tables: Tables, axes: tuple[str, ...]) -> Tables:
    """For every figure of points or lines: mean and interval over seeds at each point that it draws."""
    found = {}
    for figure in study.figures:
        if figure.chart not in ("points", "lines") or figure.table not in tables:
            continue
        keys = [figure.by, *axes, figure.panel, figure.x and figure.x.column, *figure.where]
        by = list(dict.fromkeys(name for name in keys if name and name in tables[figure.table]))
        found[figure.means] = interval_table(tables[figure.table], by, figure.y)
    return found
