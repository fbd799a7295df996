"""Controlled comparisons: variants × sizes × seeds, one difference at a time.

Each question has its file in `questions`; `compare` puts anyone's networks in their place.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from skiplab.study.questions import QUESTIONS

if TYPE_CHECKING:
    from skiplab.study.comparison import compare

__all__ = ["QUESTIONS", "compare"]


def __getattr__(name: str) -> Any:
    if name == "compare":  # it takes torch along, which `skiplab --help` must not
        return import_module("skiplab.study.comparison").compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
