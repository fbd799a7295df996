"""Skiplab finds, measures, changes, trains and explains the skip connections of PyTorch networks.

    program = skiplab.capture(model, (x,))
    skips = skiplab.find(program)
    skiplab.census(program).fewest

Importing this package imports neither torch nor anything else that takes time: each name is loaded when it is
first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skiplab import edit, errors, measure, models, report, study
    from skiplab.differ import diff
    from skiplab.export import capture
    from skiplab.finder import find
    from skiplab.linter import lint
    from skiplab.paths import Census, census
    from skiplab.program import Op, Program
    from skiplab.prover import prove
    from skiplab.pruner import Pruned, prune
    from skiplab.saved import save
    from skiplab.skips import Skip, Skips
    from skiplab.train import Recipe, Run, fit

__version__ = "0.1.0"

_HOME = {
    "capture": "export",
    "Census": "paths",
    "census": "paths",
    "Op": "program",
    "Program": "program",
    "Skip": "skips",
    "Skips": "skips",
    "diff": "differ",
    "find": "finder",
    "lint": "linter",
    "prove": "prover",
    "Pruned": "pruner",
    "prune": "pruner",
    "save": "saved",
    "Recipe": "train",
    "Run": "train",
    "fit": "train",
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
