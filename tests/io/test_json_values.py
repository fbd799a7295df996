"""What JSON lacks is null, in values, rows and tables."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from skiplab.io.json_values import finite_or_none, json_record, json_records


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_what_is_no_finite_number_is_null(value: float) -> None:
    assert finite_or_none(value) is None


@pytest.mark.parametrize("value", [0, 1.5, True, "nan", None, [math.inf]])
def test_everything_else_stays(value: object) -> None:
    assert finite_or_none(value) is value


def test_a_row_keeps_its_names_in_order() -> None:
    row = json_record({"b": math.nan, "a": 1, "c": 0.25})
    assert list(row.items()) == [("b", None), ("a", 1), ("c", 0.25)]


def test_a_table_is_strict_json() -> None:
    table = pd.DataFrame({"id": ["x", "y"], "n": [1, 2], "loss": [0.1234567890123, math.inf], "any": [math.nan, "z"]})
    records = json_records(table)
    assert records == [
        {"id": "x", "n": 1, "loss": 0.1234567890123, "any": None},
        {"id": "y", "n": 2, "loss": None, "any": "z"},
    ]
    json.dumps(records, allow_nan=False)
