"""The study `noise`: what learns in each variant, what is measured, and what is said of planted effects."""

import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from skiplab.data import digits
from skiplab.study.questions.noise import (
    REPLACED,
    VARIANTS,
    blocks_of,
    build,
    claims,
    convolutions_of,
    reset_table,
    sentences,
    with_block_number,
    work,
)
from skiplab.study.run_cell import RunContext, build_with_seed
from skiplab.training.fit import Recipe

DEPTHS = (8, 20)
ERRORS = {"trained": 0.02, "deep-frozen": 0.10, "frozen": 0.20, "empty": 0.50}
RISES = {"branch": 0.05, "mean": 0.04, "noise": 0.10, "shuffle": 0.30}


def synthetic(
    errors: dict[str, float] = ERRORS, rises: dict[str, float] = RISES, seeds: int = 4, lost: int = 0
) -> dict[str, pd.DataFrame]:
    """Six blocks a network; all numbers within 0.2 points of those planted, seeds of one variant diverged."""
    rng = np.random.default_rng(0)
    runs, lesions, probes, resets = [], [], [], []
    for variant in VARIANTS:
        for depth in DEPTHS:
            for seed in range(seeds):
                place = {"variant": variant, "depth": depth, "seed": seed}
                gone = variant == "deep-frozen" and seed < lost
                error = np.nan if gone else errors[variant] + rng.normal(0, 0.001)
                runs.append({**place, "status": "diverged" if gone else "ok", "test_error": error})
                for block in range(1, 7):
                    at = {**place, "block": block, "order": 10 * block, "half": "deeper" if block > 3 else "shallower"}
                    lesions += [
                        {**at, "kind": kind, "error_change": rise + rng.normal(0, 0.001)}
                        for kind, rise in rises.items()
                    ]
                    probes.append({**at, "accuracy": 0.4 + 0.05 * block + rng.normal(0, 0.001)})
                    for to, rise in (("initial", 0.01), ("new random", 0.2)) if variant == "trained" else ():
                        first = block % 2 == 1
                        change = rise + 0.03 * first + rng.normal(0, 0.001)
                        resets.append({**at, "reset_to": to, "first_of_stage": first, "error_change": change})
    frames = {"runs": runs, "lesion": lesions, "probe": probes, "reset": resets}
    return {name: pd.DataFrame(rows) for name, rows in frames.items()}


def said(tables: dict[str, pd.DataFrame], *words: str) -> list[str]:
    return [line for line in sentences(tables) if all(word in line for word in words)]


def stated(line: str) -> float:
    found = re.search(r"difference ([+-][\d.]+) points", line)
    assert found is not None, line
    return float(found[1])


def test_known_effects_are_stated() -> None:
    tables = synthetic()
    first, second, *_ = sentences(tables)
    assert "training the deeper half of the blocks helps" in first
    assert stated(first) == pytest.approx(8, abs=0.3)
    assert "even random branches (`frozen`) are better than none" in second
    assert stated(second) == pytest.approx(-30, abs=0.3)
    (shuffled,) = said(tables, "trained-20, deeper half", "another sample's branch is worse than none")
    assert stated(shuffled) == pytest.approx(25, abs=0.3)
    (gained,) = said(tables, "trained-20: the deeper half of the blocks separates the classes further")
    assert stated(gained) == pytest.approx(15, abs=0.5)


def test_the_opposite_is_stated_too() -> None:
    errors = {"trained": 0.10, "deep-frozen": 0.02, "frozen": 0.60, "empty": 0.50}
    tables = synthetic(errors, {"branch": 0.30, "mean": 0.04, "noise": 0.10, "shuffle": 0.05})
    first, second, *_ = sentences(tables)
    assert "is better with random weights than trained" in first
    assert "are worse than none" in second
    assert said(tables, "trained-20", "another sample's branch is better than none")
    assert said(tables, "trained-20", "noise with a branch's mean and variance is better than no branch")


def test_no_effect_is_not_claimed() -> None:
    tables = synthetic(dict.fromkeys(VARIANTS, 0.1), dict.fromkeys(REPLACED, 0.1))
    first, second, third, *_ = sentences(tables)
    for line in (first, second, third):
        assert "no clear" in line
        assert "95 % interval -" in line


def test_one_seed_claims_nothing() -> None:
    tables = synthetic(seeds=1)
    for line in sentences(tables):
        assert "95 %" not in line
        assert not any(word in line for word in ("blocks helps", "even random", "is worse than none"))
    assert {claim.agrees for claim in claims(tables)} == {"not shown"}


def test_diverged_runs_are_left_out() -> None:
    assert "paired over 2 seeds" in next(iter(sentences(synthetic(lost=2))))
    assert "no seed has both" in next(iter(sentences(synthetic(lost=4))))


def test_claims_follow_the_numbers() -> None:
    found = {claim.source.partition(" et al")[0].partition(" and")[0]: claim for claim in claims(synthetic())}
    assert found["Frankle"].agrees == "not shown"  # planted alike at both depths
    assert found["Alain"].agrees == "yes"
    assert [claim.agrees for claim in claims(synthetic()) if "Zhang" in claim.source] == ["yes", "yes"]


def test_a_narrowed_grid_says_what_it_can() -> None:
    tables = {name: table[table["variant"] == "frozen"] for name, table in synthetic().items()}
    tables.pop("reset")  # which only `trained` has
    assert all("trained-20" not in line for line in sentences(tables))
    assert list(claims(tables))


@pytest.mark.parametrize(("variant", "frozen"), [("trained", 0), ("deep-frozen", 2), ("frozen", 3), ("empty", 3)])
def test_what_learns(variant: str, frozen: int) -> None:
    model = build(variant, 8)
    fixed = [not any(c.weight.requires_grad for c in convolutions_of(block)) for block in blocks_of(model)]
    assert fixed == [False] * (3 - frozen) + [True] * frozen
    norms = [p.requires_grad for name, p in model.named_parameters() if "bn" in name and "layer" in name]
    assert all(norms) if variant != "empty" else not any(norms)
    assert model.conv1.weight.requires_grad
    assert model.fc.weight.requires_grad


def test_initial_weights_are_the_same_in_all_variants() -> None:
    first, *others = [build_with_seed(lambda v=v: build(v, 8), 3) for v in VARIANTS if v != "empty"]
    for other in others:
        for mine, its in zip(first.parameters(), other.parameters(), strict=True):
            assert torch.equal(mine, its)


def ran(variant: str, folder: Path) -> dict[str, pd.DataFrame]:
    recipe = asdict(Recipe(epochs=1, batch_size=256))
    settings = {"variant": variant, "depth": 8, "seed": 0, "recipe": recipe, "device": "cpu"}
    return work(RunContext(settings, folder, lambda *_: None))


def test_empty_branches_are_not_missed_whatever_stands_for_them(tmp_path: Path) -> None:
    tables = ran("empty", tmp_path)
    assert len(tables["lesion"]) == 3 * len(REPLACED)
    assert (tables["lesion"]["loss_change"] == 0).all()
    assert tables["runs"]["trained_parameters"].item() < tables["runs"]["parameters"].item()
    assert "reset" not in tables


def test_a_trained_run_has_every_table(tmp_path: Path) -> None:
    tables = ran("trained", tmp_path)
    assert tables["runs"]["trained_parameters"].item() == tables["runs"]["parameters"].item()
    assert list(tables["probe"]["block"]) == [1, 2, 3]
    assert set(tables["lesion"]["replaced_by"]) == set(REPLACED.values())
    assert list(tables["reset"].groupby("reset_to")["first_of_stage"].sum()) == [3, 3]  # one block a stage
    own = reset_table(build("trained", 8), build("trained", 8), digits(), "other")
    assert len(own) == 3


def test_a_block_reset_to_its_own_weights_changes_nothing() -> None:
    model = build("trained", 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert (reset_table(model, model, digits(), "itself")["error_change"] == 0).all()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_blocks_are_numbered_by_their_order() -> None:
    found = with_block_number(pd.DataFrame({"order": [9, 40, 23, 9, 40, 23]}))
    assert list(found["block"]) == [1, 3, 2, 1, 3, 2]
    assert list(found["half"]) == ["shallower", "deeper", "deeper"] * 2
