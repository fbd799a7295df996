"""Charts and pages, made from tables: no module here imports programs or models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skiplab.report.charts.curves import gradient_by_layer, path_histogram, training_curves
    from skiplab.report.charts.dashboard import skip_charts
    from skiplab.report.charts.frontier import frontier_chart
    from skiplab.report.charts.points import lines, points
    from skiplab.report.charts.run_curves import run_curves
    from skiplab.report.markdown_page import markdown
    from skiplab.report.page import Page, Section, png, svg
    from skiplab.report.pages.measure import measure_page
    from skiplab.report.pages.model import model_page
    from skiplab.report.pages.prune import prune_page
    from skiplab.report.pages.study import study_page
    from skiplab.report.pages.train import train_page

_HOME = {
    "Page": "page",
    "Section": "page",
    "frontier_chart": "charts.frontier",
    "gradient_by_layer": "charts.curves",
    "lines": "charts.points",
    "markdown": "markdown_page",
    "measure_page": "pages.measure",
    "model_page": "pages.model",
    "path_histogram": "charts.curves",
    "png": "page",
    "points": "charts.points",
    "prune_page": "pages.prune",
    "run_curves": "charts.run_curves",
    "skip_charts": "charts.dashboard",
    "study_page": "pages.study",
    "svg": "page",
    "train_page": "pages.train",
    "training_curves": "charts.curves",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:  # loaded on demand: charts import altair
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
