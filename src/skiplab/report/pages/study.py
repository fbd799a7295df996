"""The page of a study: its figures, drawn from its tables."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from skiplab.report.charts.curves import gradient_by_layer, path_histogram, training_curves
from skiplab.report.charts.dashboard import skip_charts
from skiplab.report.charts.points import lines, points
from skiplab.report.figure_spec import Figure
from skiplab.report.page import Page, Section
from skiplab.report.theme import AnyChart

Tables = Mapping[str, pd.DataFrame]


@runtime_checkable
class StudyResult(Protocol):
    """The part of `skiplab.study.result.Result` that the page shows."""

    @property
    def question(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def sentences(self) -> Sequence[str]: ...
    @property
    def tables(self) -> Tables: ...
    @property
    def figures(self) -> Sequence[Figure]: ...
    def overview(self) -> pd.DataFrame: ...


def study_page(answer: StudyResult, facts: Mapping[str, Any]) -> Page:
    """The page of a study; `facts` are its configuration and versions."""
    tables = answer.tables
    return Page(
        title=answer.question,
        lead="Every sentence is computed from the runs below. Hover for the numbers. Click a skip connection to "
        "highlight it in all charts, click empty space to clear.",
        sentences=answer.sentences,
        facts=facts,
        sections=[
            *([Section(heading="What was compared, and how", how="", content=answer.method)] if answer.method else []),
            Section(
                heading="Summary",
                how="Mean over seeds ± half of its 95 % interval (Student's t); geometric mean ×÷ the interval's "
                "factor.",
                content=answer.overview(),
            ),
            *_claims_section(tables),
            *(section(figure, tables) for figure in answer.figures if _rows(figure, tables)),
        ],
    )


def section(figure: Figure, tables: Tables) -> Section:
    """A figure as a section of a page."""
    return Section(
        heading=figure.heading, how=figure.how, content=draw(figure, tables), name=figure.name, folded=figure.folded
    )


def _rows(figure: Figure, tables: Tables) -> int:
    """The number of rows that the figure shows: zero if the grid was restricted to other values."""
    return len(_filter(tables[figure.table], figure.where)) if len(tables.get(figure.table, ())) else 0


def draw(figure: Figure, tables: Tables) -> AnyChart | pd.DataFrame:
    """The chart of a figure; for a table, its rows."""
    rows = _filter(tables[figure.table], figure.where)
    match figure.chart:
        case "points":
            return points(figure, rows, _filter(tables[figure.means], figure.where))
        case "lines":
            return lines(figure, rows, _filter(tables[figure.means], figure.where))
        case "curves":
            return training_curves(rows, figure.panel)
        case "gradient":
            return gradient_by_layer(_with_depth(rows))
        case "histogram":
            return path_histogram(_with_depth(rows))
        case "skips":
            return _skips(tables)
        case "table":
            return rows


def _skips(tables: Tables) -> AnyChart:
    merges = tables.get("merge_gradient")
    gradient = None if merges is None else merges[merges["when"] == "initialization"]
    measured = [tables.get("lesion"), tables.get("contribution"), gradient]
    return skip_charts(
        _with_depth(tables["spine"]),
        _with_depth(tables["skips"]),
        *(None if t is None else _with_depth(t) for t in measured),
    )


def _with_depth(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with a column depth, 0 if the networks are not compared by depth."""
    return frame if "depth" in frame else frame.assign(depth=0)


def _filter(frame: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


def _claims_section(tables: Tables) -> list[Section]:
    claims = tables.get("claims")
    if claims is None or claims.empty:
        return []
    how = "Claims of papers and the same quantities here; 'not shown' where the interval allows both."
    return [Section(heading="Claims of papers and these numbers", how=how, content=claims)]
