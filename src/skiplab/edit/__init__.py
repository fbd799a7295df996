"""Change a network's skip connections: `(program, skips, …) -> Program`. The program that is passed stays unchanged.

Importing this package does not import torch: each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skiplab.edit.insertion_points import Place as Place
    from skiplab.edit.insertion_points import place as place
    from skiplab.edit.insertion_points import places as places
    from skiplab.edit.registry import *  # noqa: F403
    from skiplab.edit.summary import EditSummary as EditSummary
    from skiplab.edit.summary import summarize as summarize

_HOME = {  # of the names that are no edit's
    "EditSummary": "summary",
    "Place": "insertion_points",
    "place": "insertion_points",
    "places": "insertion_points",
    "summarize": "summary",
}


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    module = None if name.startswith("_") else import_module(f".{_HOME.get(name, 'registry')}", __name__)
    if not hasattr(module, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    from skiplab.edit.catalog import edit_summaries

    return [*_HOME, *edit_summaries()]
