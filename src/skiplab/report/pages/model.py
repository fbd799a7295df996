"""The page of one network: its skip connections and its paths."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from skiplab.report.charts.curves import path_histogram
from skiplab.report.charts.dashboard import skip_charts
from skiplab.report.page import Page, Section

_SHOWN = ["id", "combine", "shortcut", "weight_layers", "activation_after", "remarks", "source", "parent"]


def model_page(
    name: str, sentences: Sequence[str], tables: Mapping[str, pd.DataFrame], facts: Mapping[str, Any]
) -> Page:
    """The page of `skiplab find MODEL --report`.

    tables: spine, skips (with places), non_skips, histogram and witness, as in `skiplab.analysis.chart_data`.
    """
    own = {key: tables[key].assign(variant=name, depth=0) for key in ("spine", "skips", "histogram")}
    skips = tables["skips"][_SHOWN].fillna("–")
    return Page(
        title=f"Skip connections of {name}",
        lead="Found on the data-flow graph; paths are counted exactly.",
        sentences=sentences,
        facts=facts,
        sections=[
            Section(
                heading="Positions in the network",
                how="The operations of the network from left to right, by resolution. Each arc is a skip connection, "
                "drawn over its branch.",
                content=skip_charts(own["spine"], own["skips"]),
                name="skips",
            ),
            Section(heading="All skip connections", how="The source line is that of the merge.", content=skips),
            Section(
                heading="No skip connections",
                how="Other places where values are merged, and why they are no skip connections.",
                content=tables["non_skips"].fillna("–"),
                folded=True,
            ),
            Section(
                heading="Paths",
                how="All paths from input to output, by the number of nonlinearities on them.",
                content=path_histogram(own["histogram"]),
                name="census",
            ),
            Section(
                heading="The most linear path",
                how="A path with the fewest nonlinearities.",
                content=tables["witness"],
                folded=True,
            ),
        ],
    )
