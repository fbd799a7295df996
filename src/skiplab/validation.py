"""What keyword options may be: each check raises a `UsageError` that names the option and what it takes."""

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

from skiplab.errors import UsageError


def checked(options: Mapping[str, object], known: Iterable[str], what: str) -> dict[str, Any]:
    """The options as a dictionary of their own, each of which has to have one of the names that `what` takes."""
    if unknown := options.keys() - set(known):
        raise UsageError(f"no option {sorted(unknown)}: {what} takes {sorted(known)}")
    return dict(options)


def require_one_of(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name}={value!r}: choose one of {choices}")


def require_whole(**numbers: Any) -> None:
    """For what has checks of its own beside this, such as a depth."""
    for name, number in numbers.items():
        if not isinstance(number, Integral):
            raise UsageError(f"{name}={number!r}: give a whole number")


def require_positive(**numbers: Any) -> None:
    """Whole numbers, as all sizes are."""
    for name, number in numbers.items():
        if not isinstance(number, Integral) or number < 1:
            raise UsageError(f"{name}={number!r}: give a whole number of at least 1")


def require_share(name: str, value: float) -> None:
    """From 0 to below 1, as what is dropped."""
    if not 0 <= value < 1:
        raise UsageError(f"{name}={value}: give a number from 0 to below 1")
