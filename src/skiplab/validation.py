"""Checks of options. Each raises a `UsageError` that names the option and the values that it takes."""

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

from skiplab.errors import UsageError


def known_options(options: Mapping[str, object], known: Iterable[str], what: str) -> dict[str, Any]:
    """A copy of the options, if `what` takes options of all these names."""
    if unknown := options.keys() - set(known):
        raise UsageError(f"no option {sorted(unknown)}: {what} takes {sorted(known)}")
    return dict(options)


def require_one_of(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Requires one of the choices."""
    if value not in choices:
        raise UsageError(f"{name}={value!r}: choose one of {choices}")


def require_whole(**numbers: Any) -> None:
    """Requires whole numbers. For a number whose range the caller checks, such as a depth."""
    for name, number in numbers.items():
        if not isinstance(number, Integral):
            raise UsageError(f"{name}={number!r}: give a whole number")


def require_positive(**numbers: Any) -> None:
    """Requires whole numbers of at least 1, such as sizes."""
    for name, number in numbers.items():
        if not isinstance(number, Integral) or number < 1:
            raise UsageError(f"{name}={number!r}: give a whole number of at least 1")


def require_share(name: str, value: float) -> None:
    """Requires a number from 0 to below 1, such as a dropout rate."""
    if not 0 <= value < 1:
        raise UsageError(f"{name}={value}: give a number from 0 to below 1")
