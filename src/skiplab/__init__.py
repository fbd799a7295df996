"""Skiplab finds, measures, changes, trains and explains the skip connections of PyTorch networks.

    program = skiplab.capture(model, (x,))
    skips = skiplab.find(program)
    skiplab.census(program).most_linear

Importing this package imports neither torch nor anything else that takes time: each name is loaded when it is
first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skiplab import edit, errors, measure, models, report, study
    from skiplab.analysis.differ import diff
    from skiplab.analysis.finder import find
    from skiplab.analysis.path_census import Census, census
    from skiplab.analysis.skips import Skip, Skips
    from skiplab.graph.capture import capture
    from skiplab.graph.program import Op, Program
    from skiplab.linter import lint
    from skiplab.pruning import Pruned, prune
    from skiplab.serialization import save
    from skiplab.training.fit import Recipe, Run, fit
    from skiplab.verification import prove

__version__ = "0.1.0"

_HOME = {
    "capture": "graph.capture",
    "Census": "analysis.path_census",
    "census": "analysis.path_census",
    "Op": "graph.program",
    "Program": "graph.program",
    "Skip": "analysis.skips",
    "Skips": "analysis.skips",
    "diff": "analysis.differ",
    "find": "analysis.finder",
    "lint": "linter",
    "prove": "verification",
    "Pruned": "pruning",
    "prune": "pruning",
    "save": "serialization",
    "Recipe": "training.recipe",
    "Run": "training.fit",
    "fit": "training.fit",
}

__all__ = [
    "Census",
    "Op",
    "Program",
    "Pruned",
    "Recipe",
    "Run",
    "Skip",
    "Skips",
    "__version__",
    "capture",
    "census",
    "diff",
    "edit",
    "errors",
    "find",
    "fit",
    "lint",
    "measure",
    "models",
    "prove",
    "prune",
    "report",
    "save",
    "study",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    elif name in __all__:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
