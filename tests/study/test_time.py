"""The question of time: its measures on closed forms, its sentences on planted numbers, and a small run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from skiplab.data import Split
from skiplab.errors import UsageError
from skiplab.models.readout import Readout
from skiplab.report.figure_spec import Figure
from skiplab.report.pages.study import draw
from skiplab.study.questions import time
from skiplab.study.questions.time import (
    STUDY,
    VARIANTS,
    build,
    claims,
    decay_factor,
    gradient_by_lag,
    is_valid,
    make_data,
    sentences,
    work,
)
from skiplab.study.run import interval_table
from skiplab.study.run_cell import RunContext

NAMES = ("rnn", "residual-rnn", "lstm", "lstm-forget-0", "gru", "min-gru")
WAVE = (1, 1, -1, -1)


class Fading(nn.Module):
    """The sum of all steps, of which each counts `factor` times as much as the next."""

    def __init__(self, factor: float, steps: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(factor ** torch.arange(steps, dtype=torch.double).flip(0)[:, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weights * x).sum(1)


def test_the_gradient_by_lag_of_a_closed_form() -> None:
    x, y = torch.ones(6, 5, 1), torch.zeros(6, 1)
    table = gradient_by_lag(Fading(0.5, 5), Split(x, y))
    slope = 2 * sum(0.5**k for k in range(5))  # of the square of the sum of each sequence
    np.testing.assert_allclose(table["gradient_norm"], [slope * 0.5**k for k in range(5)])
    assert decay_factor(table["gradient_norm"].tolist()) == pytest.approx(0.5)


def test_only_the_last_step_is_asked() -> None:
    """A network whose every answer depends on its own step alone has no gradient further back."""
    table = gradient_by_lag(Readout(6, 4, "steps"), make_data("copying-4").test)
    assert table["gradient_norm"].iloc[0] > 0
    assert (table["gradient_norm"].iloc[1:] == 0).all()
    assert decay_factor(table["gradient_norm"].tolist()) == 0


@pytest.mark.parametrize("name", VARIANTS)
def test_every_network_answers_every_task(name: str) -> None:
    for task in ("adding-4", "copying-3"):
        data = make_data(task)
        output = build(name, data)(data.test.x[:2])
        assert output.shape == ((2, 1) if task == "adding-4" else (2, 4, 9))


def test_an_unknown_task_is_told() -> None:
    assert is_valid({"task": "adding-30"})
    for task in ("adding", "sorting-3", "copying-x", "adding-1"):
        with pytest.raises(UsageError, match="choose pixels"):
            is_valid({"task": task})


def synthetic(
    rate: dict[str, float], error: dict[str, float], seeds: int = 4, noise: float = 0.01, lost: int = 0
) -> dict[str, pd.DataFrame]:
    """Networks that keep so much of the gradient with their shortcuts, and 0.3 without."""
    tables: dict[str, list[dict]] = {"runs": [], "decay": [], "lag": [], "found": []}
    for variant in NAMES:
        at = {"variant": variant, "task": "adding-9"}
        gated = variant not in ("rnn", "residual-rnn")
        kinds = ("gated", "gated") if gated else ("add", "identity") if variant != "rnn" else ("none", "none")
        found = {"combine": kinds[0], "shortcut": kinds[1], "skips": 8 * (variant != "rnn"), "steps": 9}
        tables["found"].append(at | found)
        for seed in range(seeds):
            gone = variant == "lstm" and seed < lost
            wave = noise * WAVE[seed] * (1 if variant == "rnn" else -1)
            own = {"initialization": rate.get(variant, 0.5) + wave, "trained": 0.5 + wave}
            for when in list(own)[: 1 if gone else 2]:
                tables["lag"].append({**at, "seed": seed, "when": when, "network": "original", "lag": 8})
                for network in ("original", "plain")[: 2 if variant != "rnn" else 1]:
                    value = own[when] if network == "original" else 0.3 - wave
                    tables["decay"].append({**at, "seed": seed, "when": when, "network": network, "kept": value})
            row = {"status": "diverged" if gone else "ok", "parameters": 9, "chance": 1.0, "singular": 1.1}
            row |= {"test_error": np.nan if gone else error.get(variant, 0.5) + wave}
            row |= {f"kept_{when}": value if not gone else np.nan for when, value in own.items()}
            tables["runs"].append({**at, "seed": seed, **row})
    return {name: pd.DataFrame(rows) for name, rows in tables.items()}


def said(tables: dict[str, pd.DataFrame], start: str) -> str:
    (line,) = (line for line in sentences(tables) if line.startswith(start))
    return line


def test_a_gate_that_helps_is_said_to_do_as_a_skip() -> None:
    tables = synthetic({"lstm": 0.9, "residual-rnn": 1.1}, {"lstm": 0.1, "gru": 0.9})
    answer = said(tables, "Yes, for the gradient: an LSTM's gate preserves it as a skip connection does")
    assert "8 gated shortcuts" in answer
    assert "+60.0 points" in answer
    assert "with which the gradient grows" in said(tables, "The gate is not an identity")
    less = said(tables, "Without the shortcuts (same weights, at initialization)")
    assert "less in residual-rnn (30.0 %" in less
    errors = said(tables, "Test error on adding-9")
    lower, _, rest = errors.partition("higher in ")
    higher, _, same = rest.partition("no clear difference in ")
    assert "lower in lstm (10.0 %" in lower
    assert "gru (90.0 %" in higher
    assert "min-gru" in same


def test_a_gate_that_does_not_help_is_not_said_to() -> None:
    lines = list(sentences(synthetic(dict.fromkeys(NAMES, 0.3), {}, noise=0.2)))
    assert lines[0].startswith("No clear benefit of an LSTM's gate for the gradient")
    assert "95 % interval -" in lines[0]
    assert not any("lower in" in line or "higher in" in line or "keeps: less in" in line for line in lines)


def test_one_seed_claims_nothing() -> None:
    tables = synthetic({"lstm": 0.9}, {"lstm": 0.1}, seeds=1)
    lines = list(sentences(tables))
    assert not any("95 %" in line or "lower in" in line or "as a skip" in line for line in lines)
    assert {claim.agrees for claim in claims(tables)} == {"not shown"}


@pytest.mark.parametrize("lost", [2, 4])
def test_diverged_runs_are_left_out(lost: int) -> None:
    tables = synthetic({"lstm": 0.9}, {"lstm": 0.1}, lost=lost)
    assert ("lstm (11.0 %" in said(tables, "Test error on")) == (lost == 2)  # the mean of the two that are left
    assert list(claims(tables))


@pytest.mark.parametrize(
    ("rates", "errors", "words", "agrees"),
    [
        ({"rnn": 0.6}, {}, "conventional recurrent", "yes"),
        ({"rnn": 1.0}, {}, "conventional recurrent", "not shown"),
        ({"rnn": 0.6}, {}, "largest singular value", "yes"),
        ({"rnn": 1.4}, {}, "largest singular value", "no"),
        ({"lstm": 0.8, "gru": 0.8, "min-gru": 0.8, "residual-rnn": 1.1}, {}, "A factor on the shortcut", "yes"),
        ({"lstm": 1.1, "gru": 1.1, "min-gru": 1.1, "residual-rnn": 0.8}, {}, "A factor on the shortcut", "no"),
        ({}, {"lstm": 0.1}, "forget gate", "yes"),
        ({}, {"lstm": 0.9}, "forget gate", "no"),
        ({}, {"min-gru": 0.9}, "minGRU", "no"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_claims(rates: dict[str, float], errors: dict[str, float], words: str, agrees: str) -> None:
    found = [claim for claim in claims(synthetic(rates, errors)) if words in claim.claim]
    assert found
    assert {claim.agrees for claim in found} == {agrees}


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], dict[str, pd.DataFrame]]:
    def run(variant: str, folder: Path) -> dict[str, pd.DataFrame]:
        for name, value in {"TRAIN_SAMPLES": 40, "TEST_SAMPLES": 20, "WIDTH": 4}.items():
            monkeypatch.setattr(time, name, value)
        (cell,) = STUDY.cells(
            replace(STUDY.grids["quick"], axes={"task": ("adding-6",)}, seeds=1, variants=(variant,), device="cpu")
        )
        cell.config["recipe"] |= {"epochs": 1}
        return work(RunContext(cell.config, folder, lambda *_: None))

    return run


def test_a_run_of_a_residual_network(quickly: Callable[[str, Path], dict[str, pd.DataFrame]], tmp_path: Path) -> None:
    tables = quickly("residual-rnn", tmp_path)
    row = tables["runs"].iloc[0]
    assert row["status"] == "ok"
    assert row["chance"] == 1
    found = tables["found"].iloc[0]
    assert (found["combine"], found["shortcut"], found["skips"]) == ("add", "identity", 6 - 1)  # none at the first step
    furthest = tables["lag"].groupby(["when", "network"])["lag"].max()
    assert furthest.to_dict() == {(w, n): 5 for w in ("initialization", "trained") for n in ("original", "plain")}
    # without its shortcuts, it is the plain network of the same seed, with the same initial weights
    plain = quickly("rnn", tmp_path / "plain")["lag"]
    mine = at_first(tables["lag"], "plain")
    np.testing.assert_allclose(mine, at_first(plain, "original"))
    charts(tables | {"runs": tables["runs"].assign(kept=1.0)})


def at_first(lag: pd.DataFrame, network: str) -> list[float]:
    own = lag[(lag["when"] == "initialization") & (lag["network"] == network)]
    return own["gradient_norm"].tolist()


def charts(tables: dict[str, pd.DataFrame]) -> None:
    """Every figure can be drawn."""
    at = {"variant": "residual-rnn", "task": "adding-6", "seed": 0}
    tables = {name: table.assign(**at) for name, table in tables.items()}
    for figure in STUDY.figures:
        if figure.chart in ("points", "lines"):
            tables[figure.means] = means(figure, tables[figure.table])
        draw(figure, tables)


def means(figure: Figure, table: pd.DataFrame) -> pd.DataFrame:
    assert figure.x is not None
    by = dict.fromkeys([figure.by, "task", figure.x.column, *figure.where])
    return interval_table(table, list(by), figure.y)
