"""The question of norms: its sentences on planted numbers, its count of what trains, and a run of a small network."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from skiplab.data import DataSet, Split, batches, digits
from skiplab.errors import UsageError
from skiplab.study.by_seed import select_rows
from skiplab.study.questions import norm
from skiplab.study.questions.norm import STUDY, build, claims, is_valid, postprocess, sentences, work
from skiplab.study.run_cell import SAMPLES, RunContext, build_with_seed

DEEP, SHALLOW = 12, 2
WAVE = (1, 1, -1, -1)


def synthetic(
    stuck: dict[tuple[str, bool], int], ratio: float = 8.0, falls: float = 0.4, seeds: int = 4, diverge: bool = False
) -> dict[str, pd.DataFrame]:
    """At 12 layers and 0.01 so many seeds of a variant, without or with warm-up, are stuck; all else trains.

    `ratio`: gradient of the last MLP, post over pre, at 12 layers; `falls`: that of pre, 12 layers over 2.
    """
    runs, gradient = [], []
    for variant in ("pre", "post"):
        for depth in (SHALLOW, DEEP):
            for seed in range(seeds):
                wave = WAVE[seed] * (1 if variant == "pre" else -1)
                at = {"variant": variant, "depth": depth, "seed": seed}
                for rate in (0.001, 0.01):
                    for warmup in (False, True):
                        lost = (depth, rate) == (DEEP, 0.01) and seed < stuck.get((variant, warmup), 0)
                        error = (0.9 if lost else 0.1) + 0.01 * wave * (-1 if warmup else 1)
                        gone = lost and diverge
                        row = {"status": "diverged" if gone else "ok", "parameters": 9, "trains": not lost}
                        row |= dict.fromkeys(("train_error", "test_error"), np.nan if gone else error)
                        runs.append({**at, "learning_rate": rate, "warmup": warmup, **row})
                last = (falls if depth == DEEP else 1.0) * np.exp(0.01 * wave)
                if variant == "post":
                    last = (falls * ratio if depth == DEEP else 1.0) * np.exp(0.01 * wave)
                for order, layer in enumerate((0, depth - 1)):
                    name = f"encoder.layers.encoder_layer_{layer}.mlp.3"
                    row = {"what": "weight", "name": name, "order": order, "gradient_norm": last if order else 0.5}
                    for rate in (0.001, 0.01):  # as every run measures it again
                        gradient.append({**at, "learning_rate": rate, "warmup": False, "when": "initialization", **row})
    curves = pd.DataFrame([[0.01, 12, 0.005]], columns=["learning_rate", "depth", "learning_rate"])  # axis, and log
    return postprocess({"runs": pd.DataFrame(runs), "gradient": pd.DataFrame(gradient), "curves": curves})


def said(tables: dict[str, pd.DataFrame], start: str) -> str:
    (line,) = (line for line in sentences(tables) if line.startswith(start))
    return line


def counts(tables: dict[str, pd.DataFrame], where: dict[str, Any]) -> tuple[int, ...]:
    """Of those runs, how many trained, were stuck, and diverged."""
    (row,) = select_rows(tables["trained"], where)[["trains", "stuck", "diverged"]].to_numpy().tolist()
    return tuple(row)


def agreed(tables: dict[str, pd.DataFrame], words: str) -> str:
    (found,) = (claim.agrees for claim in claims(tables) if words in claim.claim)
    return found


def test_what_trains_is_counted() -> None:
    tables = synthetic({("post", False): 4, ("post", True): 1})
    deep = said(tables, f"Largest learning rate at which every run trains, {DEEP} layers")
    assert "pre 0.01 without (4 of 4 runs), 0.01 with warm-up (4 of 4 runs)" in deep
    assert "post 0.001 without (4 of 4 runs), 0.001 with warm-up (4 of 4 runs)" in deep
    first = next(iter(sentences(tables)))
    assert "post in 0 of 4 runs without warm-up and 3 of 4 runs with warm-up" in first
    where = {"variant": "post", "depth": DEEP, "learning_rate": 0.01}
    assert counts(tables, {**where, "warmup": False}) == (0, 4, 0)
    assert counts(tables, {**where, "warmup": True}) == (3, 1, 0)
    assert tables["curves"]["learning_rate"].tolist() == [0.01]
    gradient = tables["gradient"]
    assert not gradient.duplicated(["variant", "depth", "seed", "layer"]).any()


def test_no_rate_at_which_every_run_trains() -> None:
    tables = synthetic({("post", False): 3})
    tables["runs"] = tables["runs"][tables["runs"]["learning_rate"] == 0.01]
    deep = said(tables, f"Largest learning rate at which every run trains, {DEEP} layers")
    assert "post no rate tried without (at best 1 of 4 runs, at 0.01)" in deep


def test_a_planted_difference_is_said() -> None:
    tables = synthetic({("post", False): 4})
    line = said(tables, f"Test error of post compared with pre, {DEEP} layers")
    higher, _, same = line.partition("no clear difference")
    assert "higher at 0.01 without warm-up (90.0 % ± 1.8 against 10.0 % ± 1.8)" in higher
    assert "0.001" not in higher
    assert "at 0.01 with warm-up" in same
    assert "; difference +80.0 points" in said(tables, f"Training error of post, {DEEP} layers at 0.01")
    assert "no clear difference" in said(tables, f"Training error of pre, {DEEP} layers at 0.01")
    assert agreed(tables, "post-LN trains much worse") == "yes"
    assert agreed(tables, "pre-LN trains as well") == "yes"


def test_no_difference_is_not_claimed() -> None:
    tables = synthetic({}, ratio=1.0, falls=1.0)
    lines = list(sentences(tables))
    assert not any("higher" in line or "lower at" in line or "; difference" in line for line in lines)
    assert agreed(tables, "post-LN trains much worse") == "not shown"
    assert agreed(tables, "much smaller in pre-LN") == "not shown"
    assert agreed(tables, "does not depend on the depth") == "yes"
    assert agreed(tables, "falls as one over the root") == "not shown"


def test_gradients_near_the_output() -> None:
    tables = synthetic({})
    post = said(tables, f"At initialization, {DEEP} layers, the last MLP's gradient in post")
    assert "8 times larger" in post
    assert agreed(tables, "much smaller in pre-LN") == "yes"
    assert agreed(tables, "falls as one over the root") == "yes"
    assert agreed(tables, "does not depend on the depth") == "no"  # 8 · 0.4 times
    assert agreed(synthetic({}, ratio=1 / 8), "much smaller in pre-LN") == "no"


def test_one_seed_claims_nothing() -> None:
    tables = synthetic({("post", False): 1}, seeds=1)
    assert not any("95 %" in line for line in sentences(tables))
    assert {claim.agrees for claim in claims(tables)} == {"not shown"}


@pytest.mark.parametrize("lost", [2, 4])
def test_diverged_runs_do_not_train_and_have_no_error(lost: int) -> None:
    tables = synthetic({("post", False): lost}, diverge=True)
    trained = tables["trained"]
    assert trained["diverged"].max() == lost
    assert trained["stuck"].max() == 0
    assert "post 0.001 without" in said(tables, f"Largest learning rate at which every run trains, {DEEP} layers")
    warmed = [line for line in sentences(tables) if line.startswith(f"Training error of post, {DEEP} layers at 0.01")]
    assert len(warmed) == (lost < 4)
    assert list(claims(tables))


def test_settings_that_no_network_has() -> None:
    assert is_valid({"depth": 2, "learning_rate": 0.1})
    for settings in ({"depth": 0, "learning_rate": 0.1}, {"depth": 2, "learning_rate": 0.0}):
        with pytest.raises(UsageError, match="give a depth of at least 1"):
            is_valid(settings)


def test_a_run_of_a_small_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = digits()
    few = DataSet("few", *(Split(part.x[:64], part.y[:64]) for part in (whole.train, whole.test)), classes=10)
    monkeypatch.setattr(norm, "digits", lambda: few)
    grid = replace(STUDY.grids["quick"], axes={"depth": (1,), "learning_rate": (1e-3,), "warmup": (True,)}, seeds=1)
    (cell,) = STUDY.cells(replace(grid, variants=("post",), device="cpu"))
    cell.config["recipe"] |= {"epochs": 5}
    tables = work(RunContext(cell.config, tmp_path, lambda *_: None))
    row = tables["runs"].iloc[0]
    assert bool(row["trains"]) == (row["train_error"] < 0.45)
    # the rate climbs over the first epoch: 64 examples are one step
    assert tables["curves"]["learning_rate"].iloc[:2].tolist() == [0.0005, 0.001]
    table = postprocess({name: frame.assign(**_place(cell.config)) for name, frame in tables.items()})["gradient"]
    assert len(table) == 1 + 4 + 1  # patches, one layer's four, head
    # the head's, computed directly
    model = build_with_seed(lambda: build("post", 1), 0)
    x, y = next(batches(few.train, SAMPLES))
    F.cross_entropy(model(x), y).backward()
    weight = model.get_parameter("heads.head.weight").grad
    assert weight is not None
    found = table.loc[table["layer"] == "heads.head", "gradient_norm"].iloc[0]
    assert found == pytest.approx(float(torch.linalg.vector_norm(weight)), rel=1e-4)


def _place(config: dict) -> dict:
    return {name: config[name] for name in ("variant", "depth", "learning_rate", "warmup", "seed")}
