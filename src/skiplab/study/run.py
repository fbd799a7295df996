"""Run a study: all cells of its grid, their tables put together, and what they say."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
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
from skiplab.study.run_cell import load_tables

STRUCTURE = ("paths", "fewest", "skips")  # of a network's census, beside its outcomes


def run_study(
    study: Study, grid: Grid, store: Path, workers: int, listener: Listener, *, fresh: bool = False
) -> Result:
    """Trains and measures every network of the grid; those that `store` has finished already only when `fresh`."""
    cells = study.cells(grid)
    folders = run_grid(cells, study.work, store, workers, listener, fresh=fresh)
    tables = study.postprocess(_collect_tables(cells, folders, (*grid.axes,), study.seed_invariant))
    return make_result(study, grid, tables)


def make_result(study: Study, grid: Grid, tables: Tables) -> Result:
    """The tables with their means, and the sentences and claims that are computed from them."""
    axes = tuple(grid.axes)
    tables = {"summary": summarize(tables, axes, study.outcomes), **tables, **_figure_means(study, tables, axes)}
    said = (
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
        sentences=said,
        tables=tables,
        config=settings,
        versions=library_versions(),
        figures=study.figures,
        outcomes=study.outcomes,
    )


def _collect_tables(
    cells: list[Cell], folders: dict[str, Path], axes: tuple[str, ...], once: tuple[str, ...]
) -> Tables:
    """The tables of all cells, one below the other; those that every seed has the same, of one seed."""
    gathered: dict[str, list[pd.DataFrame]] = {}
    shown: set[tuple[Any, ...]] = set()
    for cell in cells:
        network = {name: cell.config[name] for name in ("variant", *axes)}
        for name, table in load_tables(folders[cell.label]).items():
            if (name, *network.values()) in shown:
                continue
            if name in once:
                shown.add((name, *network.values()))
            place = network if name in once else {**network, "seed": cell.config["seed"]}
            gathered.setdefault(name, []).append(_with_keys(table, place))
    return {name: _concatenate(tables) for name, tables in gathered.items()}


def _with_keys(table: pd.DataFrame, place: dict[str, Any]) -> pd.DataFrame:
    """What says whose rows these are leads the columns."""
    columns = {name: [value] * len(table) for name, value in place.items()}
    return pd.concat([pd.DataFrame(columns, index=table.index), table], axis=1)


def _concatenate(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables without rows give their columns only when there is no other: they know no types."""
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]


def summarize(tables: Tables, axes: tuple[str, ...], outcomes: Iterable[Axis]) -> pd.DataFrame:
    """One row a network: outcomes as mean and 95 % interval over the seeds that did not diverge, and its size."""
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

    Of a column that is shown by its logarithm the mean is the geometric one. With several rows a seed, a seed counts
    by their mean.
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
    """For every chart of points or lines what it shows of all seeds together."""
    found = {}
    for figure in study.figures:
        if figure.chart not in ("points", "lines") or figure.table not in tables:
            continue
        places = [figure.by, *axes, figure.panel, figure.x and figure.x.column, *figure.where]
        by = list(dict.fromkeys(name for name in places if name and name in tables[figure.table]))
        found[figure.means] = interval_table(tables[figure.table], by, figure.y)
    return found
