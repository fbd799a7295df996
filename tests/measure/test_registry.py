"""Every measure is one file and one line, and what a newcomer adds so is found wherever a measure is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import skiplab
from package_copy import PackageCopy
from skiplab.errors import UsageError
from skiplab.measure.registry import NAMES, load, load_all
from skiplab.report.charts.measures import CHARTS

TOY = '''
"""How many weight layers each skip spans."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import pandas as pd

from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import Batch
from skiplab.graph.program import Program
from skiplab.measure.protocol import ORDER, SKIP_ID, Measure
from skiplab.measure.table import MeasureTable
from skiplab.stats.columns import Column


def toy(
    program: Program,
    skips: Skips,
    batches: Iterable[Batch],
    factors: Sequence[float] = (1.0,),
    sides: Sequence[Literal["branch", "shortcut"]] = ("branch",),
) -> MeasureTable:
    """Weight layers of each branch.

    Args:
        factors: numbers to multiply with, as a toy does.
        sides: parts of a skip to count.
    """
    rows = [
        (skip.id, program.by_name[skip.merge].index, float(sum(factors) * len(sides) * skip.weight_layers))
        for skip in skips
    ]
    return MeasureTable.of(__name__, pd.DataFrame(rows, columns=["id", "order", "reach"]))


def sentences(table: pd.DataFrame) -> Iterator[str]:
    yield f"The {len(table)} toys reach over {table['reach'].sum():g} weight layers."


MEASURE = Measure(
    function=toy,
    run=lambda inputs: toy(inputs.program, inputs.skips, inputs.batches, **inputs.options),
    options=("factors", "sides"),
    sentences=sentences,
    columns=(SKIP_ID, ORDER, Column("toy reach", "reach", doc="weight layers of the branch")),
    title="Toys",
    reading="The toy reach of each block.",
    chart="bars",
)
'''


@pytest.mark.parametrize("name", NAMES)
def test_a_measure_is_a_file_a_function_and_a_record_of_one_name(name: str) -> None:
    measure = load(name)
    assert measure.name == name
    assert getattr(skiplab.measure, name) is measure.function
    assert measure.function.__module__ == f"skiplab.measure.{name}"
    assert measure.chart in CHARTS
    assert all(column.doc for column in measure.columns)
    assert set(measure.methods.values()) <= set(NAMES)


def test_an_unknown_name() -> None:
    with pytest.raises(UsageError, match="no measure is called 'magic': choose of contribution"):
        load("magic")
    assert list(load_all()) == list(NAMES)


def test_a_measures_file_does_not_hide_its_function() -> None:
    """Whichever is imported first; and the names alone import neither torch nor pandas."""
    code = (
        "import sys, skiplab; from skiplab.measure.registry import NAMES; dir(skiplab.measure);"
        "assert not {'torch', 'pandas', 'numpy'} & set(sys.modules);"
        "import skiplab.measure.lesion; import skiplab.measure.estimate;"
        "assert all(callable(getattr(skiplab.measure, name)) for name in skiplab.measure.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> PackageCopy:
    package = PackageCopy.make(tmp_path_factory.mktemp("copy"))
    package.add_file("measure/toy.py", TOY)
    package.add_line("measure/registry.py", after='"cost",', line='"toy",')
    return package


def test_one_file_and_one_line_add_a_measure_to_the_help(package: PackageCopy) -> None:
    text = " ".join(package.run("measure", "--help").stdout.replace("│", " ").split())
    assert "cost, toy" in text
    assert "Options of toy" in text
    assert "--factors 0.1,… Numbers to multiply with, as a toy does." in text
    assert "--sides branch,… Parts of a skip to count." in text


def test_one_file_and_one_line_add_a_measure_to_json_and_page(package: PackageCopy, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    data = (
        "--kwargs",
        '{"in_channels": 1}',
        "--data",
        "digits",
        "--samples",
        "8",
        "--batch-size",
        "8",
        "--device",
        "cpu",
    )
    options = ("--factors", "0.5,0.25,0.25", "--sides", "branch,shortcut")
    done = package.run("measure", "resnet20", *data, "--what", "toy", *options, "--json", "--report", str(page))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["options"]["factors"] == [0.5, 0.25, 0.25]
    assert [row["reach"] for row in result["tables"]["toy"]] == [4] * 9
    assert result["sentences"]["toy"] == ["The 9 toys reach over 36 weight layers."]
    html = page.read_text()
    assert "The 9 toys reach over 36 weight layers." in html
    assert "The toy reach of each block." in html
    assert "Toys in numbers" in html
    assert html.count('"reach"') > 0
