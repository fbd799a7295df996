"""What the runner makes of the cells of any study, on a question whose numbers are known beforehand."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import study_work
from skiplab.errors import UsageError
from skiplab.report import svg
from skiplab.report.figure_spec import Axis
from skiplab.report.pages.study import draw
from skiplab.study import QUESTIONS
from skiplab.study.grid import Silent
from skiplab.study.question import Grid, Study, load_study, network_name
from skiplab.study.result import Result
from skiplab.study.run import interval_table, run_study
from study_work import STUDY, value

GRID = STUDY.grids["default"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run_study(STUDY, GRID, tmp_path_factory.mktemp("runs"), 0, Silent())


def test_every_run_is_there_once_with_what_says_which_it_is(result: Result) -> None:
    runs = result.tables["runs"]
    assert list(runs)[:3] == ["variant", "size", "seed"]
    places = [(v, size, seed) for v in ("a", "b") for size in (1, 10) for seed in range(3)]
    assert list(runs[["variant", "size", "seed"]].itertuples(index=False, name=None)) == places
    for row in runs[runs["status"] == "ok"].to_dict("records"):
        assert row["score"] == value({str(k): v for k, v in row.items()})


def test_what_all_seeds_share_is_kept_once(result: Result) -> None:
    assert result.tables["shape"].to_dict("list") == {
        "variant": list("aabb"),
        "size": [1, 10] * 2,
        "layers": [1, 10] * 2,
    }


def test_the_summary_against_scipy(result: Result) -> None:
    for row in result.tables["summary"].to_dict("records"):
        lost = row["variant"] == "b" and row["size"] == 10
        values = [study_work.BASE[row["variant"]] * row["size"] + seed for seed in range(2 if lost else 3)]
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (row["score"], row["score_low"], row["score_high"]) == pytest.approx((np.mean(values), low, high))
        assert (row["seeds"], row["diverged"]) == (3, int(lost))


def test_logarithms_are_averaged_as_such(result: Result) -> None:
    means = result.tables["by_x_means"]
    assert len(means) == 2 * 2 * 2  # variants, sizes, x
    # Of 1, 2, 4 and of 1, 4, 16 the geometric means are 2 and 4.
    assert means["y"].to_numpy() == pytest.approx(np.where(means["x"] == 1, 2.0, 4.0))
    assert (means["y"] ** 2).to_numpy() == pytest.approx((means["y_low"] * means["y_high"]).to_numpy())


def test_sentences_of_any_study(result: Result) -> None:
    diverged, own, parameters = result.sentences
    assert diverged.startswith("b-10 diverged in 1 of 3 runs")
    assert own == "12 runs."
    assert "10 % more (b 110, a 100)" in parameters


def test_the_overview_is_for_people(result: Result) -> None:
    rows = result.overview()
    assert rows["network"].tolist() == ["a-1", "a-10", "b-1", "b-10 (1 diverged)"]
    assert rows["score"].tolist()[0].startswith("2 ± 2.48")
    assert rows["parameters"].tolist() == ["100", "100", "110", "110"]


@pytest.mark.parametrize("number", range(len(STUDY.figures)))
def test_its_figures_are_drawn(result: Result, number: int) -> None:
    figure = STUDY.figures[number]
    chart = draw(figure, result.tables)
    assert not isinstance(chart, pd.DataFrame)
    picture = svg(chart)
    assert all(axis.title in picture for axis in (figure.x, *figure.y) if axis is not None)
    if figure.panel:
        assert "size 10" in picture


def test_runs_that_make_no_sense_are_left_out() -> None:
    sizes = [cell.config["size"] for cell in STUDY.cells(Grid(axes={"size": (7, 8)}, seeds=1))]
    assert sizes == [8, 8]
    with pytest.raises(UsageError, match="no run of sizes is left"):
        STUDY.cells(Grid(axes={"size": (7,)}))


def test_what_is_named_twice_is_run_once() -> None:
    once, twice = (
        Grid(axes={"size": (1, 10)}, variants=("a", "b")),
        Grid(axes={"size": (1, 10, 1)}, variants=("a", "b", "a")),
    )
    assert STUDY.cells(twice) == STUDY.cells(once)


def test_variants_are_chosen_by_name() -> None:
    assert {cell.config["variant"] for cell in STUDY.cells(replace(GRID, variants=("b",)))} == {"b"}
    with pytest.raises(UsageError, match="no variant 'c': choose from a, b"):
        STUDY.cells(replace(GRID, variants=("c",)))


def test_what_a_run_is_about_makes_it_another_run() -> None:
    keys = [replace(STUDY, identity=lambda _, data=data: {"data": data}).cells(GRID)[0].key for data in ("x", "x", "y")]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("axes", [{}, {"depth": 8}, {"depth": 8, "learning_rate": 0.1}])
def test_labels(axes: dict[str, float]) -> None:
    told = network_name({"variant": "plain", **axes}, axes)
    assert told == ["plain", "plain-8", "plain (depth 8, learning rate 0.1)"][len(axes)]


def test_a_grid_without_seeds_or_values_is_none() -> None:
    for empty in ({"seeds": 0}, {"axes": {"size": ()}}):
        with pytest.raises(UsageError, match="the grid is empty"):
            Grid(**empty)  # type: ignore[arg-type]


@given(st.lists(st.lists(st.floats(0.1, 100), min_size=1, max_size=4), min_size=1, max_size=5))
def test_a_seed_counts_once_however_many_rows_it_has(seeds: list[list[float]]) -> None:
    rows = pd.DataFrame([{"variant": "a", "seed": i, "y": y} for i, values in enumerate(seeds) for y in values])
    found = interval_table(rows, ["variant"], [Axis("y", "y")]).iloc[0]
    means = [float(np.mean(values)) for values in seeds]
    assert found["y"] == pytest.approx(np.mean(means))
    if len(seeds) == 1:
        assert math.isnan(found["y_low"])
    else:
        half = stats.t.ppf(0.975, len(seeds) - 1) * np.std(means, ddof=1) / math.sqrt(len(seeds))
        assert found["y_high"] - found["y"] == pytest.approx(half, abs=1e-9)


def test_every_study_of_ours_says_what_it_is() -> None:
    for name, question in QUESTIONS.items():
        study: Study = load_study(name)
        assert study.name == name
        assert question.endswith("?")
        assert (study.text or "").startswith(question)
        assert "arXiv:" in study.method  # what was expected, and by whom
        assert set(study.grids) == {"quick", "default", "full"}
        assert all(grid.seeds >= 3 for grid in study.grids.values())
        assert all(len({cell.key for cell in study.cells(g)}) == len(study.cells(g)) for g in study.grids.values())
        assert len({figure.name for figure in study.figures}) == len(study.figures)
