"""The page of what was measured of one network: a chart a measure, the sentences above, the tables to unfold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from skiplab.report.charts import measures, signals
from skiplab.report.page import Page, Section
from skiplab.report.theme import AnyChart


@dataclass(frozen=True)
class _Part:
    heading: str
    how: str
    chart: Callable[[pd.DataFrame], AnyChart]


_PARTS: Mapping[str, _Part] = {
    "contribution": _Part(
        "Contribution",
        "How large what a branch adds is beside what its shortcut brings, and its direction: a cosine of 0 means that "
        "the two do not overwrite each other. Lines: ± one standard deviation over samples.",
        measures.contribution_chart,
    ),
    "clipping": _Part(
        "Clipping",
        "The share of the shortcut's energy that the activation behind each merge takes away, and below it what would "
        "be left of a signal on the route so far. Lines: ± one standard deviation over samples.",
        measures.clipping_chart,
    ),
    "gradient": _Part(
        "Gradient",
        "Norm of the loss's gradient by weight layer, and at each skip: of the merge's value, and the parts that come "
        "back to the fork by shortcut and by branch. The axes are logarithmic; a norm of zero is not drawn.",
        signals.gradient_chart,
    ),
    "lesion": _Part(
        "Lesions",
        "By how much the loss rises when a part of the network is deleted, without retraining, with its 95 % interval; "
        "gray where that includes zero. A cross is a loss that is no finite number.",
        measures.lesion_chart,
    ),
    "layers": _Part(
        "Layers",
        "By how much the loss rises when one layer is deleted and its input goes on in its place, without retraining.",
        measures.lesion_chart,
    ),
    "estimate": _Part(
        "Lesions, estimated",
        "What the loss would rise by, from one forward and backward pass rather than a run for each lesion.",
        measures.estimate_chart,
    ),
    "lengths": _Part(
        "Path lengths",
        "The gradient split by the number of branches on the paths that carry it, beside all paths by the same number.",
        signals.lengths_chart,
    ),
    "shattering": _Part(
        "Shattering",
        "Correlation of the gradients at an input and at one nearby; bands: 95 % interval of the mean over samples.",
        signals.shattering_chart,
    ),
    "similarity": _Part(
        "Similarity",
        "Linear CKA of the outputs of every two blocks: 1 where they differ by rotation and scale alone.",
        signals.similarity_chart,
    ),
    "probe": _Part(
        "Probes",
        "Share of held-out samples that a linear classifier of each block's output gets right; band: 95 % interval.",
        measures.probe_chart,
    ),
    "spectrum": _Part(
        "Spectrum",
        "From the smallest to the largest singular value of each block's Jacobian, with the root mean square; the line "
        "at 1 is a block that keeps the size of what goes through.",
        measures.spectrum_chart,
    ),
    "linearity": _Part(
        "Linearity",
        "What the best linear map does not explain of each block, and how far that map is from the identity.",
        measures.linearity_chart,
    ),
    "cost": _Part(
        "Cost",
        "Memory that a shortcut holds while its branch runs, and the time that both take.",
        measures.cost_chart,
    ),
}


def measure_page(
    title: str, sentences: Sequence[str], tables: Mapping[str, pd.DataFrame], facts: Mapping[str, Any]
) -> Page:
    """The page of `skiplab measure MODEL --report`; tables by the measure's name, as in `skiplab.measure`."""
    charts, numbers = [], []
    for name, table in tables.items():
        part = _PARTS[name]
        if len(table):
            charts.append(Section(heading=part.heading, how=part.how, content=part.chart(table), name=name))
        numbers.append(
            Section(heading=f"{part.heading} in numbers", how=f"{len(table)} rows.", content=table, folded=True)
        )
    return Page(
        title=title,
        lead="Every sentence is computed from the numbers below. Hover for the numbers of a block.",
        sentences=sentences,
        sections=[*charts, *numbers],
        facts=facts,
    )
