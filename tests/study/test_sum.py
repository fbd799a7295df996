"""The question of the sum: its sentences on planted numbers, and a real run that is stopped on the way."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from skiplab.stats.intervals import student
from skiplab.study.questions.sum import PRE, STUDY, VARIANTS, claims, measured_epochs, sentences, work
from skiplab.study.run_cell import RunContext
from skiplab.study.sentences import format_number
from skiplab.training.fit import Recipe

WAVE = (1, -1, 1, -1)  # over seeds: noise that cancels
OTHER = (1, 1, -1, -1)  # that cancels in differences from it too


def synthetic(after: dict[str, float], seeds: int = 4) -> pd.DataFrame:
    """Nine blocks of two networks; what is not given stays as it was before training."""
    at_start = {"ratio": 1.0, "cosine": 0.0, "kept": 0.7, "spread": 1.0, "loss_change": 0.5, "error_change": 0.0}
    rows = []
    for variant in VARIANTS:
        for epoch, moment in ((0, "initialization"), (1, "on the way"), (2, "trained")):
            for seed in range(seeds):
                wave = 0.01 * (WAVE if epoch else OTHER)[seed] * (-1 if variant == PRE else 1)
                values = at_start | (after if epoch == 2 else {})
                where = {"variant": variant, "depth": 20, "seed": seed, "epoch": epoch, "moment": moment}
                rows += [
                    where | {"block": block, "dimensions": 128} | {name: value + wave for name, value in values.items()}
                    for block in range(1, 10)
                ]
    return pd.DataFrame(rows)


def said(table: pd.DataFrame, *words: str) -> list[str]:
    return [line for line in sentences({"blocks": table}) if all(word in line for word in words)]


def test_a_known_effect_is_stated() -> None:
    table = synthetic({"ratio": 0.5, "cosine": 0.2, "kept": 0.9, "spread": 3.0, "error_change": 0.1})
    assert len(said(table, "0.5 ± 0.018 times as large as the shortcut", "(along the shortcut)")) == 2
    assert len(said(table, "2 times smaller")) == 2
    assert len(said(table, "trained and at initialization", "; difference +0.2 (95 %")) == 4
    assert len(said(table, "changes its test error by +10.0 points", "interval")) == 2
    assert not said(table, "no clear change")
    assert len(said(table, "after training 3 times (95 % interval 3 to 3)")) == 2
    assert {claim.agrees for claim in claims({"blocks": table}) if "Greff" in claim.source} == {"yes"}


def test_no_effect_is_not_claimed() -> None:
    table = synthetic({})
    assert len(said(table, "no clear direction")) == 2
    assert len(said(table, "not clearly different")) == 2
    assert len(said(table, "no clear difference")) == 4 + 4
    assert len(said(table, "Deleting one branch", "no clear change")) == 2
    assert {claim.agrees for claim in claims({"blocks": table})} == {"not shown"}


def test_a_branch_that_takes_away_is_said_to() -> None:
    table = synthetic({"cosine": -0.3, "kept": 0.3})
    assert len(said(table, "(against the shortcut)")) == 2
    assert {claim.agrees for claim in claims({"blocks": table}) if "Greff" in claim.source} == {"no"}


@pytest.mark.parametrize(("early", "agrees"), [(2.0, "yes"), (0.5, "no")])
def test_early_blocks_that_change_more(early: float, agrees: str) -> None:
    table = synthetic({})
    table.loc[table["block"] <= 3, "ratio"] *= early
    assert {claim.agrees for claim in claims({"blocks": table}) if "Jastrz" in claim.source} == {agrees}


def test_one_seed_claims_nothing() -> None:
    table = synthetic({"ratio": 0.5, "cosine": 0.2, "error_change": 0.1}, seeds=1)
    assert not said(table, "95 % interval")
    assert {claim.agrees for claim in claims({"blocks": table})} == {"not shown"}


def test_runs_that_diverged_count_for_nothing() -> None:
    table = synthetic({"ratio": 0.5})
    table = table[(table["seed"] < 3) | (table["epoch"] < 2)]  # one was lost before its end
    assert said(table, f"{format_number(student([0.51, 0.49, 0.51]))} times as large")
    assert list(sentences({"blocks": table[table["moment"] != "trained"]}))


def test_more_is_seen_early() -> None:
    assert measured_epochs(6) == {0, 1, 2, 4, 6}
    assert measured_epochs(1) == {0, 1}
    assert measured_epochs(40) == {0, 1, 2, 4, 8, 16, 32, 40}


def settings(seed: int = 0) -> dict[str, Any]:
    recipe = Recipe(epochs=2, batch_size=256, learning_rate=0.1, seed=seed)
    return {"variant": PRE, "depth": 8, "seed": seed, "recipe": vars(recipe), "device": "cpu"}


def test_a_run_that_was_stopped_measures_the_same(tmp_path: Path) -> None:
    def stopping(_share: float, text: str) -> None:
        if text.startswith("epoch 1"):
            raise KeyboardInterrupt

    (whole := tmp_path / "whole").mkdir()
    (parts := tmp_path / "parts").mkdir()
    tables = work(RunContext(settings(), whole, lambda *_: None))
    with pytest.raises(KeyboardInterrupt):
        work(RunContext(settings(), parts, stopping))
    again = work(RunContext(settings(), parts, lambda *_: None))
    pd.testing.assert_frame_equal(tables["blocks"], again["blocks"])

    table = tables["blocks"]
    assert table.groupby("epoch")["block"].apply(list).to_dict() == {epoch: [1, 2, 3] for epoch in (0, 1, 2)}
    assert list(dict.fromkeys(table["moment"])) == ["initialization", "on the way", "trained"]
    assert list(table["dimensions"][:3]) == [8 * 8 * 8, 16 * 4 * 4, 32 * 2 * 2]
    # ‖x + F‖² = ‖x‖² + 2⟨x, F⟩ + ‖F‖², so a mean cosine that is kept lies within what the means of its parts allow
    assert table["kept"].between(-1, 1).all()
    assert (table["spread"] >= np.abs(table["cosine"]) * np.sqrt(table["dimensions"]) - 1e-9).all()


def test_grids_name_what_the_study_has() -> None:
    assert all(STUDY.cells(grid) for grid in STUDY.grids.values())
