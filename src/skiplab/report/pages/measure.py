"""The page of measures of one network: sentences, a chart per measure, and folded tables."""

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
        "Size of each branch's output relative to its shortcut's, and its direction: a cosine of 0 means that the two "
        "do not overwrite each other. Lines: ± one standard deviation over samples.",
        measures.contribution_chart,
    ),
    "clipping": _Part(
        "Clipping",
        "Share of the shortcut's energy that the activation after each merge removes, and below it the share of a "
        "signal's energy left on the route so far. Lines: ± one standard deviation over samples.",
        measures.clipping_chart,
    ),
    "gradient": _Part(
        "Gradient",
        "Norm of the loss's gradient by weight layer, and at each skip: at the merge, and the parts that reach the "
        "fork by shortcut and by branch. The axes are logarithmic; a norm of zero is not drawn.",
        signals.gradient_chart,
    ),
    "lesion": _Part(
        "Lesions",
        "Rise of the loss when a part of the network is deleted, without retraining, with its 95 % interval; gray "
        "where that includes zero. A cross is a loss that is not finite.",
        measures.lesion_chart,
    ),
    "layers": _Part(
        "Layers",
        "Rise of the loss when one layer is replaced by the identity, without retraining.",
        measures.lesion_chart,
    ),
    "estimate": _Part(
        "Lesions, estimated",
        "Estimated rise of the loss, from one forward and backward pass instead of a run for each lesion.",
        measures.estimate_chart,
    ),
    "lengths": _Part(
        "Path lengths",
        "The gradient by the number of branches on the paths that carry it, and all paths by their number of branches.",
        signals.lengths_chart,
    ),
    "shattering": _Part(
        "Shattering",
        "Correlation of the gradients at an input and at one nearby. Bands: 95 % interval of the mean over samples "
        "(Student's t).",
        signals.shattering_chart,
    ),
    "similarity": _Part(
        "Similarity",
        "Linear CKA of the outputs of every two blocks: 1 if they differ only by rotation and scale.",
        signals.similarity_chart,
    ),
    "probe": _Part(
        "Probes",
        "Accuracy on held-out samples of a linear classifier of each block's output; band: 95 % interval.",
        measures.probe_chart,
    ),
    "spectrum": _Part(
        "Spectrum",
        "From the smallest to the largest singular value of each block's Jacobian, with the root mean square. A block "
        "with all singular values at the line, 1, preserves norms.",
        measures.spectrum_chart,
    ),
    "linearity": _Part(
        "Linearity",
        "Share of each block's output that the best linear map does not explain, and the distance of that map from the "
        "identity.",
        measures.linearity_chart,
    ),
    "cost": _Part(
        "Cost",
        "Memory that a shortcut holds while its branch runs, and the time of both.",
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
