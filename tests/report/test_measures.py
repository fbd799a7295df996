"""The chart of each measure: drawn from its own table, with gaps, and with every number that it claims to show."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, sem, t

from skiplab.errors import UsageError
from skiplab.measure.registry import NAMES, load
from skiplab.report import measure_page, png, svg
from skiplab.report.charts.measures import CHARTS, measure_chart
from skiplab.report.json_data import cell
from skiplab.report.pages.measure import MeasureSection


def tables(blocks: int = 6) -> dict[str, pd.DataFrame]:
    """What each measure returns, with values that differ from block to block."""
    rng = np.random.default_rng(0)
    ids = [f"layer{i // 3}.{i % 3}" for i in range(blocks)]
    base = pd.DataFrame({"id": ids, "order": [9 * i + 4 for i in range(blocks)], "samples": 64})
    size = rng.uniform(0.2, 1.5, blocks)
    halves = base.assign(network="original")
    length = np.arange(blocks + 1)
    weights = [("weight", f"conv{i}", "original", i, 0.1 * (i + 1), 0.01, 1.0, None, None) for i in range(2 * blocks)]
    skips = [("skip", id, "original", 9 * i + 4, size[i], 0.1, 1.0, 0.7, 0.3) for i, id in enumerate(ids)]
    columns = "what name network order gradient_norm gradient_norm_std relative shortcut_norm branch_norm".split()
    lesions = [
        base.assign(kind=kind, batchnorm="as trained", loss_change=size - 0.4, loss=size) for kind in ("branch", "mean")
    ]
    lesion = pd.concat(lesions, ignore_index=True)
    pairs = [(a, b, i, j, 1 / (1 + abs(i - j)), 64) for i, a in enumerate(ids) for j, b in enumerate(ids)]
    ends = {f"loss_change_{end}": lesion["loss_change"] + shift for end, shift in (("low", -0.2), ("high", 0.2))}
    return {
        "contribution": base.assign(ratio=size, ratio_std=0.1, cosine=size - 1, cosine_std=0.1),
        "clipping": base.assign(
            activation="relu", route=ids[0], energy=0.2, energy_std=0.1, route_kept=0.8 ** length[1:]
        ),
        "gradient": pd.DataFrame(weights + skips, columns=columns),
        "lesion": lesion.assign(**ends),
        "layers": lesion.assign(**ends, kind="layer"),
        "estimate": base.assign(loss_change=size, first_order=size / 2, curvature=size / 2),
        "lengths": pd.DataFrame(
            {"length": length, "weight": binom.pmf(length, blocks, 0.2), "path_share": binom.pmf(length, blocks, 0.5)}
        ),
        "shattering": pd.DataFrame(
            [(net, d, 64, 1 - d, 0.1) for net in ("original", "plain") for d in (0.01, 0.1)],
            columns=["network", "distance", "samples", "correlation", "correlation_std"],
        ),
        "similarity": pd.DataFrame(pairs, columns=["id", "other", "order", "other_order", "cka", "samples"]),
        "probe": base.assign(accuracy=0.5, accuracy_low=0.4, accuracy_high=0.6, train_accuracy=0.7),
        "spectrum": halves.assign(largest=2.0, smallest=0.5, mean_square=size, mean_square_std=0.1),
        "linearity": base.assign(nonlinearity=size / 3, distance_from_identity=size),
        "cost": base.assign(held_bytes=2**20, held_ops=4, branch_ms=size, shortcut_ms=0.1, share_of_time=0.1),
    }


def spoilt(table: pd.DataFrame) -> pd.DataFrame:
    """The same with NaN and infinity in every column of real numbers."""
    table = table.copy()
    for column in table.columns[[kind.kind == "f" for kind in table.dtypes]]:
        table.loc[table.index[0], column] = math.nan
        table.loc[table.index[1], column] = math.inf
    return table


CHART = {name: load(name).chart or "" for name in NAMES}


def test_every_measure_and_chart_has_a_sample_here() -> None:
    assert set(tables()) == set(NAMES)
    assert set(CHART.values()) == set(CHARTS) - {"bars"}


@pytest.mark.parametrize("name", list(tables()))
def test_png_and_svg_with_gaps_and_with_one_row(name: str) -> None:
    whole = tables()[name]
    assert png(measure_chart(CHART[name], whole)).startswith(b"\x89PNG")
    for table in (spoilt(whole), spoilt(whole).iloc[:1]):
        chart = measure_chart(CHART[name], table)
        assert svg(chart).startswith("<svg")
        assert not re.search(r"\bNaN\b|Infinity", json.dumps(chart.to_dict()))


def drawn(name: str, table: pd.DataFrame, role: str) -> list[str]:
    text = svg(measure_chart(CHART[name], table))
    found = re.findall(rf'aria-label="([^"]*)"[^>]*aria-roledescription="{role}"', text)
    return [label.replace("−", "-") for label in found]


def test_bars_are_the_tables_numbers() -> None:
    """Read back from the rendered chart."""
    sample = tables()["contribution"]
    labels = drawn("contribution", sample, "bar")
    assert len(labels) == 2 * len(sample)
    for id, ratio in zip(sample["id"], sample["ratio"], strict=True):
        assert any(f"id: {id}" in label and f"‖F(x)‖ / ‖x‖: {cell(ratio)}" in label for label in labels)


def test_a_lesion_has_the_color_of_where_its_interval_lies() -> None:
    sample = tables(3)["lesion"].iloc[:3]
    sample = sample.assign(
        loss_change=[0.5, 0.0, -0.5], loss_change_low=[0.4, -0.1, -0.6], loss_change_high=[0.6, 0.1, -0.4]
    )
    labels = drawn("lesion", sample, "bar")
    for id, sign in zip(sample["id"], ("above zero", "includes zero", "below zero"), strict=True):
        assert any(f"id: {id}" in label and f"sign: {sign}" in label for label in labels)


@pytest.mark.parametrize("samples", [2, 5, 64])
def test_the_band_of_shattering_is_students_interval(samples: int) -> None:
    """Against scipy's interval of drawn samples; 1.96 standard errors are far from it for few of them."""
    values = np.random.default_rng(samples).normal(0.5, 0.1, samples)
    row = {"network": "original", "distance": 0.01, "samples": samples}
    table = pd.DataFrame([{**row, "correlation": values.mean(), "correlation_std": values.std(ddof=1)}])
    (data,) = measure_chart("shattering", table).to_dict()["datasets"].values()
    (drawn,) = json.loads(data)
    ends = t.interval(0.95, samples - 1, values.mean(), sem(values))
    assert (drawn["low"], drawn["high"]) == pytest.approx(ends, rel=1e-3)


def test_what_is_not_finite_is_a_cross() -> None:
    assert svg(measure_chart(CHART["lesion"], tables()["lesion"])).count("✕") == 0
    assert svg(measure_chart(CHART["lesion"], spoilt(tables()["lesion"]))).count("✕") == 2


def test_bands_of_lengths_leave_five_per_cent_out() -> None:
    """Against scipy's quantiles of the same binomials."""
    sample = tables(30)["lengths"]
    labels = re.findall('aria-label="([^"]*)"', svg(measure_chart(CHART["lengths"], sample)))
    for what, share in (("gradient", 0.2), ("paths", 0.5)):
        low, high = binom.ppf([0.025, 0.975], 30, share)
        assert any(
            f"from: {low:.0f}; row" in label and f"to: {high:.0f}; share of the: {what}" in label for label in labels
        )


def test_sixty_blocks_have_fewer_labels_and_fit() -> None:
    text = svg(measure_chart(CHART["contribution"], tables(60)["contribution"]))
    assert 20 <= len(re.findall(r">layer\d+\.\d<", text)) <= 60
    width = float(re.search(r'width="([\d.]+)"', text)[1])  # type: ignore[index]
    assert width < 1000


def section(name: str, table: pd.DataFrame) -> MeasureSection:
    return MeasureSection(name=name, heading=name, reading="", chart=CHART[name], table=table)


def test_bars_show_every_quantity_of_a_table() -> None:
    labels = re.findall('aria-label="([^"]*)"[^>]*aria-roledescription="bar"', svg(measure_chart("bars", toy())))
    for id, growth, loss in zip(toy()["id"], toy()["growth"], toy()["loss"], strict=True):
        for quantity, value in (("growth", growth), ("loss", loss)):
            assert any(f"id: {id}" in label and f"{quantity}: {cell(value)}" in label for label in labels)
    with pytest.raises(UsageError, match="no chart is called 'pie': choose of bars, clipping"):
        measure_chart("pie", toy())


def toy() -> pd.DataFrame:
    return pd.DataFrame(
        {"id": ["a", "b"], "order": [1, 2], "growth": [0.5, 2.5], "growth_std": 0.1, "loss": [3.5, 4.5]}
    )


def test_the_page_has_a_chart_and_a_table_for_each_measure() -> None:
    sample = tables()
    page = measure_page("What do they do?", ["a < b"], [section(*each) for each in sample.items()], {"model": "net"})
    assert list(page.charts()) == list(sample)
    html = page.html()
    assert html.count("<details>") == len(sample)
    assert "a &lt; b" in html
    empty = section("contribution", sample["contribution"].iloc[:0])
    assert measure_page("nothing", [], [empty], {}).charts() == {}
