"""The page of a pruning."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from skiplab.report.charts.frontier import frontier_chart
from skiplab.report.page import Page, Section


def prune_page(
    model: str,
    sentences: Sequence[str],
    frontier: pd.DataFrame,
    chosen: int,
    trained: Mapping[str, Any] | None,
    facts: Mapping[str, Any],
) -> Page:
    """The page of `skiplab prune MODEL --report`."""
    how = (
        "One point per network. Blocks were removed one after the other, and batch norm statistics were re-estimated "
        "each time. Bars: 95 % intervals over samples. The ring is the network that meets the target. Time is that of "
        "a forward pass, relative to the original network in the same run."
    )
    chart = frontier_chart(frontier, chosen, trained)
    return Page(
        title=f"Depth pruning of {model}",
        lead="Every sentence is computed from the numbers below. Hover for a network's numbers.",
        sentences=sentences,
        sections=[
            Section(heading="Frontier", how=how, content=chart, name="frontier"),
            Section(heading="The frontier in numbers", how=f"{len(frontier)} networks.", content=frontier, folded=True),
        ],
        facts=facts,
    )
