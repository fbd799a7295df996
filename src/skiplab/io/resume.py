"""Results that a stopped command resumes."""

from collections.abc import Iterator
from typing import Any


def differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """Says in words in which entries two JSON documents differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            yield from differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield f"{name} was {there}, now {here}"
