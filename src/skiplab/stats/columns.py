"""One column of a table of results: its meaning and its format."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table of results.

    Attributes:
        heading: its title in tables; empty for a column that the terminal leaves out.
        name: its name in the DataFrame.
        form: how its values are formatted: "number", "text", "share" (a percentage), "bytes", "std" (± the deviation
            in `<name>_std`), or "interval" (from `<name>_low` to `<name>_high`).
        doc: what the values are, in a phrase.
        unit: their unit; empty for dimensionless numbers, counts and text.
    """

    heading: str
    name: str
    form: Literal["number", "text", "share", "bytes", "std", "interval"] = "number"
    doc: str = ""
    unit: str = ""
