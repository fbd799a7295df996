"""The list of measures. Each is one file here, named as its function, that ends in `MEASURE = Measure(...)`.

Importing the list imports no measure, and so no torch: the command line's help needs only the names.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from skiplab.errors import UsageError

if TYPE_CHECKING:
    from skiplab.measure.protocol import Measure

NAMES = (
    "contribution",
    "clipping",
    "gradient",
    "lesion",
    "layers",
    "lengths",
    "shattering",
    "similarity",
    "probe",
    "spectrum",
    "linearity",
    "cost",
    "estimate",
)


def load(name: str) -> "Measure":
    """The measure of this name; UsageError when there is none."""
    if name not in NAMES:
        raise UsageError(f"no measure is called {name!r}: choose of {', '.join(NAMES)}")
    return import_module(f"skiplab.measure.{name}").MEASURE


def options_by_measures() -> "dict[tuple[Measure, ...], list[str]]":
    """The names of all options of measures, by the measures that take them."""
    takers: dict[str, list[Measure]] = {}
    for measure in load_all().values():
        for option in measure.options:
            takers.setdefault(option, []).append(measure)
    found: dict[tuple[Measure, ...], list[str]] = {}
    for option, measures in takers.items():
        found.setdefault(tuple(measures), []).append(option)
    return found


def load_all() -> "dict[str, Measure]":
    """Every measure by name, in the order of the list."""
    return {name: load(name) for name in NAMES}
