"""The page of a study: what its tables look like, in the order in which one would ask."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from skiplab.report.curves import error_by_depth, gradient_by_layer, path_histogram, training_curves
from skiplab.report.linked import skip_charts
from skiplab.report.page import Page, Section

Tables = Mapping[str, pd.DataFrame]


def study_page(title: str, verdicts: Sequence[str], tables: Tables, facts: Mapping[str, Any]) -> Page:
    """The page of networks compared by depth; tables as in `skiplab.study.examine` plus `summary`."""
    return Page(
        title=title,
        lead="Every sentence is computed from the runs below. Hover for the numbers; click on a skip connection to "
        "find it in all charts; click beside it to let it go.",
        verdicts=verdicts,
        facts=facts,
        sections=[
            Section(
                "Error by depth",
                "One point a seed; the tick is their mean, the line its 95 % interval (Student's t). A cross is a run "
                "that diverged.",
                error_by_depth(tables["runs"], tables["summary"]),
                "error-by-depth",
            ),
            Section(
                "Training curves",
                "One line a seed, at the end of each epoch in evaluation mode. If a deep plain network were merely "
                "over-fitted, its training error (solid) would be low.",
                training_curves(tables["curves"]),
                "training-curves",
            ),
            Section(
                "Gradient by layer",
                "Norm of the loss's gradient for each weight layer; thin lines are seeds, the thick one their "
                "geometric mean. A level line means that every layer learns at a like pace; with batch norm, deep "
                "plain networks tend to explode towards the input rather than vanish.",
                gradient_by_layer(tables["gradient"]),
                "gradient-by-layer",
            ),
            _skips(tables),
            Section(
                "Census",
                "All paths from input to output, by the number of nonlinearities on them. Without skip connections "
                "there is one path.",
                path_histogram(tables["histogram"]),
                "census",
            ),
            Section("Census in numbers", "Exact counts.", tables["census"], folded=True),
            Section(
                "The lightest path",
                "Step by step, the path with the fewest nonlinearities in each network.",
                tables["witness"],
                folded=True,
            ),
            Section("Summary", "Mean and 95 % interval over seeds.", tables["summary"]),
        ],
    )


def _skips(tables: Tables) -> Section:
    merges = tables.get("merge_gradient")
    gradient = None if merges is None else merges[merges["when"] == "initialisation"]
    return Section(
        "Skip connections",
        "From left to right the network as it runs, by resolution; each arc is a skip connection over what it skips. "
        "Below each network, what its loss rises by when one branch is deleted without retraining, and how large "
        "the branch's output is beside the signal that it is added to; last, the size of the loss's gradient at the "
        "merge, before training.",
        skip_charts(tables["spine"], tables["skips"], tables.get("lesion"), tables.get("contribution"), gradient),
        "skips",
    )
