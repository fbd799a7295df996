"""The versioned JSON of the commands. Numbers of paths are decimal strings, since they outgrow 64 bits."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from skiplab.analysis.differ import Difference, trait
from skiplab.analysis.path_census import Census
from skiplab.analysis.skips import NonSkip, Skip, Skips
from skiplab.errors import DataError
from skiplab.graph.program import Program
from skiplab.io.json_values import finite_or_none, json_record, json_records
from skiplab.verification import Proof, proof_json

FIND = "skiplab.find/3"
CENSUS = "skiplab.census/1"
DIFF = "skiplab.diff/2"
MEASURE = "skiplab.measure/2"
PRUNE = "skiplab.prune/2"
TRAIN = "skiplab.train/2"
EDIT = "skiplab.edit/1"


def find_json(model: str, program: Program, skips: Skips, census: Census, proof: Proof | None = None) -> dict[str, Any]:
    """What `skiplab find --json` prints."""
    return {
        "schema": FIND,
        "model": model,
        "capture": {
            "difference": finite_or_none(program.difference),
            "dynamic_batch": program.dynamic_batch,
            "training": program.training,
            "unfollowed": list(program.unfollowed),
            "fingerprint": program.fingerprint,
        },
        "skips": [asdict(skip) for skip in skips],
        "non_skips": [asdict(each) for each in skips.non_skips],
        "census": census_fields(census),
        **({} if proof is None else {"proof": proof_json(proof)}),
    }


def census_json(model: str, census: Census) -> dict[str, Any]:
    """What `skiplab census --json` prints."""
    return {"schema": CENSUS, "model": model, **census_fields(census)}


def census_fields(census: Census) -> dict[str, Any]:
    """A census as JSON, under the names of its attributes."""
    fields = asdict(census)
    fields["paths"] = str(census.paths)
    for name in ("histogram", "weight_histogram"):
        fields[name] = {str(k): str(n) for k, n in sorted(fields[name].items())}
    fields["counted"] = list(census.counted)
    fields["witness"] = fields.pop("most_linear")["steps"]
    return fields


def diff_json(before: str, after: str, difference: Difference) -> dict[str, Any]:
    """What `skiplab diff --json` prints."""
    changed = [
        {
            "before": change.before.id,
            "after": change.after.id,
            "path": change.after.path,
            "fields": {name: [trait(change.before, name), trait(change.after, name)] for name in change.fields},
        }
        for change in difference.changed
    ]
    return {
        "schema": DIFF,
        "before": before,
        "after": after,
        "differ": bool(difference),
        "removed": [asdict(skip) for skip in difference.removed],
        "added": [asdict(skip) for skip in difference.added],
        "changed": changed,
        "non_skips": [{"path": path, "reason": why, "more": n} for (path, why), n in difference.non_skips.items()],
    }


def measure_json(
    config: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], sentences: Mapping[str, list[str]]
) -> dict[str, Any]:
    """What `skiplab measure --json` prints: NaN and infinities of the tables are null.

    config: model, data and options, as JSON has them.
    """
    return {
        "schema": MEASURE,
        **config,
        "tables": {name: json_records(table) for name, table in tables.items()},
        "notes": {name: dict(table.attrs) for name, table in tables.items() if table.attrs},
        "sentences": dict(sentences),
    }


def edit_json(config: Mapping[str, Any], summary: Mapping[str, Any], files: pd.DataFrame | None) -> dict[str, Any]:
    """What `skiplab edit --json` prints.

    config: model, edit, options and the ids of the edited skips. summary: the attributes of the `EditSummary`; numbers
    that are not finite are null.
    """
    return {"schema": EDIT, **config, **json_record(summary), "files": [] if files is None else json_records(files)}


def prune_json(
    config: Mapping[str, Any],
    frontier: pd.DataFrame,
    chosen: int,
    trained: Mapping[str, Any] | None,
    sentences: list[str],
    files: pd.DataFrame | None,
) -> dict[str, Any]:
    """What `skiplab prune --json` prints: NaN and infinities of the tables are null.

    chosen: the row of the frontier that meets the target. trained: that network's row after fine-tuning.
    """
    after = json_records(pd.DataFrame([] if trained is None else [trained]))
    return {
        "schema": PRUNE,
        **config,
        "frontier": json_records(frontier),
        "chosen": chosen,
        "finetuned": after[0] if after else None,
        "files": [] if files is None else json_records(files),
        "sentences": sentences,
    }


def train_json(
    config: Mapping[str, Any],
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    summary: Mapping[str, Mapping[str, float]],
    sentences: list[str],
) -> dict[str, Any]:
    """What `skiplab train --json` prints: numbers that are not finite are null.

    config: model, data and recipe, as JSON has them; runs: one row a seed; curves: one row a seed and epoch; summary:
    for each loss and error the mean over the runs that did not diverge, and the ends of its 95 % interval.
    """
    return {
        "schema": TRAIN,
        **config,
        "runs": json_records(runs),
        "curves": json_records(curves),
        "summary": {name: json_records(pd.DataFrame([values]))[0] for name, values in summary.items()},
        "sentences": sentences,
    }


def read_skips(path: Path) -> Skips:
    """The skips in a file of `skiplab find --json`; DataError for any other file or version."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"there is no file {path}: write it with `skiplab find MODEL --json > {path}`") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != FIND:
        raise DataError(
            f"{path} has the format {schema or 'of no schema'}, and this version reads {FIND}: write it again with "
            f"`skiplab find MODEL --json > {path}`"
        )
    try:
        skips = [_record(Skip, each) for each in found["skips"]]
        return Skips(skips, [_record(NonSkip, each) for each in found["non_skips"]])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no complete {FIND} file: {type(error).__name__}: {error}") from error


def _record(kind: type, entry: Mapping[str, Any]) -> Any:
    """JSON has lists where a record has tuples."""
    values = {field.name: entry[field.name] for field in fields(kind)}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
