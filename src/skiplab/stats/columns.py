"""How one column of a table of results is shown to people."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table of results as people see it.

    Attributes:
        heading: what stands above it.
        name: its name in the DataFrame.
        form: how its values are formatted: "number", "text", "share" (a percentage), "bytes", "std" (± the deviation
            in `<name>_std`), or "interval" (from `<name>_low` to `<name>_high`).
    """

    heading: str
    name: str
    form: Literal["number", "text", "share", "bytes", "std", "interval"] = "number"
