"""What a study gives: its tables, the sentences computed from them, and all that is needed to repeat it."""

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from skiplab.files import write_json
from skiplab.study.examine import Tables, load, save
from skiplab.study.grid import Cell, code_version

SCHEMA = "skiplab.study/1"


@dataclass(frozen=True)
class Result:
    """A study's outcome.

    Attributes:
        study: its name.
        question: what it asks.
        verdicts: sentences computed from the tables.
        tables: see `skiplab.study.examine`; columns `variant`, `depth` and `seed` say of which run.
        config: the grid and the recipe.
        versions: of what it ran on.
    """

    study: str
    question: str
    verdicts: tuple[str, ...]
    tables: Tables
    config: Mapping[str, Any]
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Everything, with NaN and infinities as null."""
        return {
            "schema": SCHEMA,
            "study": self.study,
            "question": self.question,
            "verdicts": list(self.verdicts),
            "config": dict(self.config),
            "versions": dict(self.versions),
            "tables": {name: _records(table) for name, table in self.tables.items()},
        }

    def save(self, folder: Path) -> None:
        """Each table as Parquet, and config, versions and verdicts as JSON."""
        save(self.tables, folder)
        summary = {key: value for key, value in self.to_json().items() if key != "tables"}
        write_json(folder / "config.json", summary)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    records = json.loads(table.to_json(orient="records", double_precision=15))
    return [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()} for r in records]


def collect(cells: list[Cell], folders: Mapping[str, Path], first_seed_only: tuple[str, ...]) -> Tables:
    """The tables of all cells, one below the other; those that every seed has the same, of one seed."""
    gathered: dict[str, list[pd.DataFrame]] = {}
    shown: set[tuple[str, str, int]] = set()
    for cell in cells:
        variant, depth = cell.config["variant"], cell.config["depth"]
        for name, table in load(folders[cell.label]).items():
            if name in first_seed_only:
                if (name, variant, depth) in shown:
                    continue
                shown.add((name, variant, depth))
            table.insert(0, "variant", variant)
            table.insert(1, "depth", depth)
            if name not in first_seed_only:
                table.insert(2, "seed", cell.config["seed"])
            gathered.setdefault(name, []).append(table)
    return {name: _stacked(tables) for name, tables in gathered.items()}


def _stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables without rows give their columns only when there is no other: they know no types."""
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]


def versions() -> dict[str, str]:
    """Of Skiplab, its code, and what it stands on."""
    names = ("skiplab", "torch", "lightning-fabric", "numpy", "pandas", "altair", "scikit-learn")
    return {
        **{name: version(name) for name in names},
        "code": code_version(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
