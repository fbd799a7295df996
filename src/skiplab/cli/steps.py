"""The frontier of a pruning that is kept row by row, so that one that was stopped goes on where it was."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from skiplab.cli.kept import Kept
from skiplab.errors import DataError
from skiplab.io.atomic import writable_folder, write_text

_NAME = "frontier"


class Steps:
    """The rows so far, in the folder of what is kept; None keeps nothing."""

    def __init__(self, path: Path | None, config: dict[str, Any]) -> None:
        self.config = config
        self._kept = Kept(path, config)
        folder = self._kept.folder(_NAME)
        self._file = None if folder is None else writable_folder(folder) / "rows.jsonl"
        self.before = self._rows()
        self._come: list[dict[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Keeps all rows so far, those of before among them, which come again."""
        self._come.append(dict(row))
        if self._file is not None and len(self._come) > len(self.before):
            write_text(self._file, "".join(json.dumps(each) + "\n" for each in self._come))

    def finish(self, frontier: pd.DataFrame) -> None:
        self._kept.save(_NAME, frontier)

    def mend(self) -> str:
        return self._kept.mend()

    def _rows(self) -> list[dict[str, Any]]:
        finished = self._kept.load(_NAME)
        if finished is not None:
            return [{str(name): value for name, value in row.items()} for row in finished.to_dict("records")]
        if self._file is None or not self._file.exists():
            return []
        try:
            return [json.loads(line) for line in self._file.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise DataError(f"{self._file} is damaged ({error}): delete it, and blocks are ranked again") from error
