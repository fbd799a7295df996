"""The frontier of a pruning, kept row by row, so that a stopped pruning resumes after its last row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from skiplab.io.resume import TABLES, ResumeStore

_ROWS = "frontier-parts/rows"


class FrontierStore:
    """Keeps a frontier in a folder; None keeps nothing.

    Attributes:
        before: the rows that an earlier call has kept, for `prune`'s option of that name.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        self._store = ResumeStore(folder, identity, TABLES)
        finished = self._store.load_table("frontier")
        self.before: list[dict[str, Any]] = (
            self._store.load_json(_ROWS) or [] if finished is None else _records(finished)
        )
        self._rows: list[dict[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Keeps one more row; those of `before` come first once more."""
        self._rows.append(dict(row))
        if len(self._rows) > len(self.before):
            self._store.save_json(_ROWS, self._rows)

    def finish(self, frontier: pd.DataFrame) -> None:
        """Keeps the finished frontier."""
        self._store.save_table("frontier", frontier)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
