"""Charts and pages, from tables alone: nothing here knows of programs or models, and nothing needs it."""

from skiplab.report.curves import gradient_by_layer, path_histogram, training_curves
from skiplab.report.linked import skip_charts
from skiplab.report.markdown import markdown
from skiplab.report.measure import measure_page
from skiplab.report.model import model_page
from skiplab.report.page import Page, Section, png, svg
from skiplab.report.points import lines, points
from skiplab.report.prune import frontier_chart, prune_page
from skiplab.report.study import study_page
from skiplab.report.train import run_curves, train_page

__all__ = [
    "Page",
    "Section",
    "frontier_chart",
    "gradient_by_layer",
    "lines",
    "markdown",
    "measure_page",
    "model_page",
    "path_histogram",
    "png",
    "points",
    "prune_page",
    "run_curves",
    "skip_charts",
    "study_page",
    "svg",
    "train_page",
    "training_curves",
]
