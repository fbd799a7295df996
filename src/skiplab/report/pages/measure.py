"""The page of measures of one network: sentences, a chart per measure, and folded tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from skiplab.report.charts.measures import measure_chart
from skiplab.report.page import Page, Section


@dataclass(frozen=True, kw_only=True)
class MeasureSection:
    """What the page shows of one measure.

    Attributes:
        name: of the chart's files.
        heading, reading: its title, and how to read the chart.
        chart: its name, see `skiplab.report.charts.measures`; None shows only the table.
        table: the result.
    """

    name: str
    heading: str
    reading: str
    chart: str | None
    table: pd.DataFrame


def measure_page(
    title: str, sentences: Sequence[str], parts: Sequence[MeasureSection], facts: Mapping[str, Any]
) -> Page:
    """The page of `skiplab measure MODEL --report`."""
    charts, numbers = [], []
    for part in parts:
        if len(part.table) and part.chart is not None:
            charts.append(
                Section(
                    heading=part.heading,
                    how=part.reading,
                    content=measure_chart(part.chart, part.table),
                    name=part.name,
                )
            )
        numbers.append(
            Section(
                heading=f"{part.heading} in numbers", how=f"{len(part.table)} rows.", content=part.table, folded=True
            )
        )
    return Page(
        title=title,
        lead="Every sentence is computed from the numbers below. Hover for the numbers of a block.",
        sentences=sentences,
        sections=[*charts, *numbers],
        facts=facts,
    )
