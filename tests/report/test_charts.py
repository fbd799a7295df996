"""Each chart renders offline as PNG and SVG, and holds the data that it was given."""

import functools
import json
import re
from collections.abc import Callable

import pandas as pd
import pytest

import report_sample
from skiplab.report import gradient_by_layer, path_histogram, png, points, skip_charts, study_page, svg, training_curves
from skiplab.report.charts.arcs import arc_points
from skiplab.report.json_data import cell
from skiplab.report.theme import AnyChart
from skiplab.study.questions.depth import FIGURES as OF_DEPTH

TABLES = report_sample.study()
FIGURES = {figure.name: figure for figure in OF_DEPTH}

MAKE: dict[str, Callable[[dict[str, pd.DataFrame]], AnyChart]] = {
    "curves": lambda tables: training_curves(tables["curves"]),
    "error": lambda tables: points(FIGURES["error-by-depth"], tables["runs"], tables["summary"]),
    "gradient": lambda tables: gradient_by_layer(tables["gradient"]),
    "histogram": lambda tables: path_histogram(tables["histogram"]),
    "skips": lambda tables: skip_charts(tables["spine"], tables["skips"], tables["lesion"], tables["contribution"]),
}


@functools.cache
def chart(name: str) -> AnyChart:
    return MAKE[name](TABLES)


@functools.cache
def drawn(name: str) -> str:
    return svg(chart(name))


@pytest.mark.parametrize("name", list(MAKE))
def test_png_and_svg(name: str) -> None:
    assert png(chart(name)).startswith(b"\x89PNG")
    assert drawn(name).startswith("<svg")


def test_no_view_name_is_used_twice() -> None:
    """Vega-Lite gives two views of one name the same data, without a word."""
    text = json.dumps(chart("skips").to_dict())
    views = next(p["views"] for p in json.loads(text)["params"] if p["name"] == "pick")
    assert len(views) == len(set(views)) == 6
    assert all(text.count(f'"name": "{view}"') == 1 for view in views)


def test_bars_are_the_means_of_their_own_variant() -> None:
    """Read back from the rendered chart, against pandas."""
    labels = re.findall(r'aria-label="([^"]*)"[^>]*aria-roledescription="bar"', drawn("skips"))
    bars = [label.replace("−", "-") for label in labels if "loss change" in label]
    lesion = TABLES["lesion"]
    deep = lesion[lesion["depth"] == max(report_sample.DEPTHS)].replace([float("inf"), -float("inf")], float("nan"))
    means = deep.groupby(["variant", "id"])["loss_change"].mean().reset_index()
    for skip, value in zip(means["id"], means["loss_change"], strict=True):
        assert any(f"loss change: {cell(value)};" in label and f"skip: {skip}" in label for label in bars)


def test_one_seed_and_no_skips_at_all() -> None:
    plain = {name: table[table["variant"] == "plain"] for name, table in TABLES.items()}
    tables = {name: table[table["seed"] == 0] if "seed" in table else table for name, table in plain.items()}
    for make in MAKE.values():
        assert svg(make(tables)).startswith("<svg")


def test_diverged_runs_are_marked() -> None:
    assert (TABLES["runs"]["status"] == "diverged").any()
    assert "status: diverged" in drawn("error")


def test_arcs_begin_and_end_where_their_skips_do() -> None:
    sample = report_sample.unet()
    points = arc_points(sample["spine"], sample["skips"].assign(key=range(len(sample["skips"]))))
    for key, own in points.groupby("key"):
        skip = sample["skips"].iloc[int(str(key))]
        own = own.sort_values("step")
        assert list(own["x"].iloc[[0, -1]]) == pytest.approx([skip["fork_order"], skip["merge_order"]])
        assert own["y"].max() > own["y"].iloc[0]


def test_numbers_inside_charts_are_short_and_finite() -> None:
    text = json.dumps(chart("gradient").to_dict())
    assert "NaN" not in text
    assert "Infinity" not in text
    assert len(study_page(report_sample.Answer(TABLES, tuple(OF_DEPTH)), {}).html()) < 4e6
