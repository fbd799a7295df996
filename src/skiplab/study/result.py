"""What a study gives: its tables, the sentences computed from them, and all that is needed to repeat it."""

import hashlib
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from skiplab.io.atomic import write_json
from skiplab.io.json_values import json_records
from skiplab.report.figure_spec import PERCENT, Axis, Figure
from skiplab.study.cache_key import PACKAGE
from skiplab.study.question import label
from skiplab.study.run_cell import Tables, save

SCHEMA = "skiplab.study/1"
_SIZES = {"parameters": "parameters", "skips": "skips", "fewest": "lightest path"}


@dataclass(frozen=True)
class Result:
    """A study's outcome.

    Attributes:
        study: its name.
        question: what it asks.
        method: what was compared, why, and how, as Markdown; empty where the user chose it.
        verdicts: sentences computed from the tables.
        tables: `runs` (one row a run), `summary` (one a network), `claims`, and the study's own; columns `variant`,
            `seed` and the names of the grid's axes say of which run.
        config: the grid and the recipe.
        versions: of what it ran on.
        figures: what is shown of the tables.
        outcomes: the columns of `summary` that answer the question.
    """

    study: str
    question: str
    method: str
    verdicts: tuple[str, ...]
    tables: Tables
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    figures: tuple[Figure, ...]
    outcomes: tuple[Axis, ...]

    def to_json(self, most_rows: int | None = None) -> dict[str, Any]:
        """Everything, with NaN and infinities as null; tables of more than `most_rows` are left out and named."""
        left_out = [name for name, table in self.tables.items() if most_rows is not None and len(table) > most_rows]
        return {
            "schema": SCHEMA,
            "study": self.study,
            "question": self.question,
            "method": self.method,
            "verdicts": list(self.verdicts),
            "config": dict(self.config),
            "versions": dict(self.versions),
            "tables": {name: json_records(table) for name, table in self.tables.items() if name not in left_out},
            **({"left_out": left_out} if left_out else {}),
        }

    def overview(self) -> pd.DataFrame:
        """The summary for people: one row a network, its outcomes with half of their 95 % interval, and its size."""
        summary = self.tables["summary"]
        rows = []
        for row in summary.to_dict("records"):
            lost = f" ({row['diverged']} diverged)" if row["diverged"] else ""
            shown = {"network": f"{label(row, self.config['axes'])}{lost}"}
            for axis in self.outcomes:
                shown[f"{axis.title} %" if axis.kind in PERCENT else axis.title] = _spread(row, axis)
            rows.append(shown | {name: f"{int(row[c]):,}" for c, name in _SIZES.items() if c in summary})
        return pd.DataFrame(rows)

    def save(self, folder: Path) -> None:
        """Each table as Parquet, and config, versions and verdicts as JSON."""
        save(self.tables, folder)
        summary = {key: value for key, value in self.to_json().items() if key != "tables"}
        write_json(folder / "config.json", summary)


def _spread(row: dict[Any, Any], axis: Axis) -> str:
    """ "0.93 ± 0.02", and of a geometric mean "240 ×÷ 3.1": from 240 / 3.1 to 240 · 3.1."""
    factor = 100 if axis.kind in PERCENT else 1
    mean, low, high = (factor * row[f"{axis.column}{end}"] for end in ("", "_low", "_high"))
    if not math.isfinite(mean):
        return "–"
    digits = ".1f" if factor == 100 else ".3g"
    if axis.kind == "log":
        return f"{mean:{digits}}" + (f" ×÷ {high / mean:.2g}" if math.isfinite(high) else "")
    half = (high - low) / 2
    return f"{mean:{digits}}" + (f" ± {half:{digits}}" if math.isfinite(half) else "")


def versions() -> dict[str, str]:
    """Of Skiplab, its code, and what it stands on."""
    names = ("skiplab", "torch", "lightning-fabric", "numpy", "pandas", "altair", "scikit-learn")
    return {
        **{name: version(name) for name in names},
        "code": _code(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _code() -> str:
    """Hash of the package's sources, which a version number does not tell apart between releases."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
