"""The page of a training: error and loss by epoch, one line per seed, next to the error of chance."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from skiplab.report.charts.run_curves import run_curves
from skiplab.report.page import Page, Section


def train_page(
    title: str,
    sentences: Sequence[str],
    tables: tuple[pd.DataFrame, pd.DataFrame],
    chance: Mapping[str, float],
    facts: Mapping[str, Any],
) -> Page:
    """The page of one network's runs.

    tables: the curves (seed, epoch, and loss and error of both parts, a row an epoch) and the runs (a row a seed).
    chance: the error of the commonest class, `train` and `test`.
    """
    curves, runs = tables
    how = (
        "One color a seed, at the end of each epoch in evaluation mode; solid on the training part, dashed on the "
        "test part. The gray line is the error of always saying the training part's commonest class, or its mean."
    )
    return Page(
        title=title,
        lead="Every sentence is computed from the runs below. Hover for the numbers.",
        sentences=sentences,
        sections=[
            Section(heading="Error and loss", how=how, content=run_curves(curves, chance["train"]), name="curves"),
            Section(heading="Runs", how="At the end of the last epoch.", content=runs),
        ],
        facts=facts,
    )
