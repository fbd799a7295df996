"""What each skip connection does, as tables: `(program, skips, batches, …) -> MeasureTable`, a pandas DataFrame.

Each measure is the file of its name, and a line in `skiplab.measure.registry`. Importing this package imports none of
them: each function is loaded when it is first used.
"""
# ruff: noqa: F401 (type checkers read the imports that `__getattr__` makes)

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from skiplab.measure.registry import NAMES

if TYPE_CHECKING:
    from skiplab.measure.accelerate import faster
    from skiplab.measure.clipping import clipping
    from skiplab.measure.contribution import contribution
    from skiplab.measure.cost import cost
    from skiplab.measure.estimate import estimate
    from skiplab.measure.gradient import gradient
    from skiplab.measure.layers import layers
    from skiplab.measure.lengths import lengths
    from skiplab.measure.lesion import lesion
    from skiplab.measure.linearity import linearity
    from skiplab.measure.one_pass import together
    from skiplab.measure.probe import probe
    from skiplab.measure.shattering import shattering
    from skiplab.measure.similarity import similarity
    from skiplab.measure.spectrum import spectrum
    from skiplab.stats.band import band

_HOME = {
    "band": "skiplab.stats.band",
    "faster": "skiplab.measure.accelerate",
    "together": "skiplab.measure.one_pass",
    **{name: f"skiplab.measure.{name}" for name in NAMES},
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


class _Package(ModuleType):
    """Keeps `measure.lesion` the function: Python would bind the name to the file lesion.py when that is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in NAMES and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
