"""Controlled comparisons: variants × sizes × seeds, one difference at a time.

Each question has a file in `questions`. `compare` runs the same comparison on the user's networks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from skiplab.study.questions import QUESTIONS

if TYPE_CHECKING:
    from skiplab.study.comparison import compare

__all__ = ["QUESTIONS", "compare"]


def __getattr__(name: str) -> Any:
    if name == "compare":  # it imports torch, which `skiplab --help` must not
        return import_module("skiplab.study.comparison").compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
