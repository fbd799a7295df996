"""Every error that Skiplab raises on purpose, as one tree under `SkiplabError`.

Each class has the exit code of the command line. Messages name the place (module path, file, option), what was found
there and how to fix it, in one or two lines.
"""

from collections.abc import Iterable
from typing import Any


class SkiplabError(Exception):
    """Root of the tree; catching it catches every error that Skiplab raises on purpose."""

    exit_code = 1


class UsageError(SkiplabError):
    """The request itself does not make sense: an option's value, or options that exclude each other."""

    exit_code = 2


class StaleSkip(UsageError):  # noqa: N818 (says what the skip is)
    """A skip was used with a program other than the one in which it was found."""


class SelectionError(SkiplabError):
    """A selection of skips does not have the size that was asserted of it."""


class ProofError(SkiplabError):
    """A skip is not what its record says, or could not be shown to be."""


class ModelError(SkiplabError):
    """The model cannot be found, built or run."""

    exit_code = 3


class CaptureError(ModelError):
    """The model runs, but its graph cannot be exported."""


class DataError(SkiplabError):
    """Data, weights or earlier results cannot be read, or do not fit the model."""

    exit_code = 4


class OutputError(DataError):
    """Results cannot be written where they were asked for."""


class DivergedError(SkiplabError):
    """Training reached a loss that is not a finite number; `history` is the table of the epochs before."""

    def __init__(self, message: str, history: Any = None) -> None:
        super().__init__(message)
        self.history = history


class WorkerError(SkiplabError):
    """A process at work on a study was killed from outside."""


def format_shape(shape: Iterable[Any], scalar: str = "scalar") -> str:
    """A shape as messages show it: "1x3x8x8", with N for a size that varies (None); `scalar` for ()."""
    return "x".join("N" if size is None else str(size) for size in shape) or scalar
