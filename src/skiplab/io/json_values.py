"""Values for JSON, with null for NaN and infinity."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd


def finite_or_none(value: Any) -> Any:
    """None for NaN and the infinities; any other value unchanged."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A row with null in place of NaN and the infinities."""
    return {name: finite_or_none(value) for name, value in record.items()}


def json_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each as a record: floats to 15 digits, null in place of NaN and the infinities."""
    return [json_record(row) for row in json.loads(table.to_json(orient="records", double_precision=15))]
