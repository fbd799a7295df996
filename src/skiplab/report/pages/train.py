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

    tables: the curves (seed, epoch, and loss and error of both parts, one row per epoch) and the runs (one row per
    seed).
    chance: the error of always predicting the most common class, for `train` and `test`.
    """
    curves, runs = tables
    how = (
        "At the end of each epoch, in evaluation mode. One color per seed; solid: training part, dashed: test part. "
        "The gray line is the error of always predicting the training part's most common class, or its mean."
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
