"""The result of a study: its tables, the sentences computed from them, and the configuration that repeats it."""

import hashlib
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

import skiplab
from skiplab.io.atomic import write_json
from skiplab.io.json_values import json_records
from skiplab.report.figure_spec import PERCENT, Axis, Figure
from skiplab.study.question import network_name
from skiplab.study.run_cell import Tables, save_tables

SCHEMA = "skiplab.study/1"
_SIZES = {"parameters": "parameters", "skips": "skips", "fewest": "most linear path"}


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a study.

    Attributes:
        study: its name.
        question: its question.
        method: what was compared, why, and how, as Markdown; empty for networks of the user.
        sentences: the answers, computed from the tables.
        tables: `runs` (one row per run), `summary` (one per network), `claims`, and the study's own. The columns
            `variant`, `seed` and the names of the grid's axes identify the run.
        config: the grid and the recipe.
        versions: of Python and the libraries.
        figures: charts and tables of the page.
        outcomes: the columns of `summary` that answer the question.
    """

    study: str
    question: str
    method: str
    sentences: tuple[str, ...]
    tables: Tables
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    figures: tuple[Figure, ...]
    outcomes: tuple[Axis, ...]

    def to_json(self, max_rows: int | None = None) -> dict[str, Any]:
        """The result as JSON, with NaN and infinities as null.

        Tables with more than `max_rows` rows are left out; `left_out` lists their names.
        """
        left_out = [name for name, table in self.tables.items() if max_rows is not None and len(table) > max_rows]
        return {
            "schema": SCHEMA,
            "study": self.study,
            "question": self.question,
            "method": self.method,
            "verdicts": list(self.sentences),
            "config": dict(self.config),
            "versions": dict(self.versions),
            "tables": {name: json_records(table) for name, table in self.tables.items() if name not in left_out},
            **({"left_out": left_out} if left_out else {}),
        }

    def overview(self) -> pd.DataFrame:
        """The summary as text: one row per network, its outcomes with half of their 95 % interval, and its size."""
        summary = self.tables["summary"]
        rows = []
        for row in summary.to_dict("records"):
            lost = f" ({row['diverged']} diverged)" if row["diverged"] else ""
            shown = {"network": f"{network_name(row, self.config['axes'])}{lost}"}
            for axis in self.outcomes:
                shown[f"{axis.title} %" if axis.kind in PERCENT else axis.title] = _format_outcome(row, axis)
            rows.append(shown | {name: f"{int(row[c]):,}" for c, name in _SIZES.items() if c in summary})
        return pd.DataFrame(rows)

    def save(self, folder: Path) -> None:
        """Write each table as Parquet, and config, versions and sentences as JSON."""
        save_tables(self.tables, folder)
        summary = {key: value for key, value in self.to_json().items() if key != "tables"}
        write_json(folder / "config.json", summary)


def _format_outcome(row: dict[Any, Any], axis: Axis) -> str:
    """ "0.93 ± 0.02", and for a geometric mean "240 ×÷ 3.1": from 240 / 3.1 to 240 · 3.1."""
    factor = 100 if axis.kind in PERCENT else 1
    mean, low, high = (factor * row[f"{axis.column}{end}"] for end in ("", "_low", "_high"))
    if not math.isfinite(mean):
        return "–"
    digits = ".1f" if factor == 100 else ".3g"
    if axis.kind == "log":
        return f"{mean:{digits}}" + (f" ×÷ {high / mean:.2g}" if math.isfinite(high) else "")
    half = (high - low) / 2
    return f"{mean:{digits}}" + (f" ± {half:{digits}}" if math.isfinite(half) else "")


def library_versions() -> dict[str, str]:
    """Versions of Skiplab, its sources, Python and the libraries it computes with."""
    names = ("skiplab", "torch", "lightning-fabric", "numpy", "pandas", "altair", "scikit-learn")
    return {
        **{name: version(name) for name in names},
        "code": _source_hash(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _source_hash() -> str:
    """Hash of the package's sources: between releases they change, and the version number does not."""
    digest = hashlib.sha256()
    for path in sorted(Path(skiplab.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
