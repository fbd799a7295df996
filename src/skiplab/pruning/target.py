"""The target of a pruning: the row of the frontier at which it stops."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from skiplab.errors import UsageError
from skiplab.pruning.options import TARGETS

_COLUMNS = {"keep": "share", "latency": "latency_ratio"}


@dataclass(frozen=True)
class PruningTarget:
    """One of the options `keep`, `max_change` and `latency` with its value."""

    name: str
    value: float

    def ends(self, row: Mapping[Any, Any]) -> bool:
        """Whether a network meets the target, or exceeds the limit `max_change`."""
        if self.name == "max_change":
            return not _change(row) <= self.value
        return bool(row["removed"]) and row[_COLUMNS[self.name]] <= self.value + 1e-9

    def choose(self, frontier: pd.DataFrame) -> int:
        """The row that meets the target; for `max_change` the last one within it.

        Raises:
            UsageError: where no row meets the target.
        """
        rows = frontier.to_dict("records")
        if self.name == "max_change":
            return max(place for place, row in enumerate(rows) if _change(row) <= self.value)
        if not self.ends(rows[-1]):
            reached = rows[-1][_COLUMNS[self.name]]
            raise UsageError(f"{self.name}={self.value:g} is out of reach: without all blocks it is {reached:.2g}")
        return len(rows) - 1


def target_of(options: Mapping[str, Any]) -> PruningTarget | None:
    """The target among the options of `prune`, if any."""
    return next((PruningTarget(name, float(options[name])) for name in TARGETS if name in options), None)


def _change(row: Mapping[Any, Any]) -> float:
    return row["metric_change" if "metric_change" in row else "loss_change"]
