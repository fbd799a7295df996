"""The study `capacity`: the data that a run learns from, what counts as in use, and what is said of planted effects."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from skiplab.data import digits
from skiplab.errors import UsageError
from skiplab.study.questions.capacity import (
    ALL_SAMPLES,
    DISPENSABLE,
    NEAR_IDENTITY,
    VARIANTS,
    claims,
    is_valid,
    postprocess,
    sentences,
    training_subset,
    work,
)
from skiplab.study.run_cell import RunContext
from skiplab.training.fit import Recipe


def synthetic(
    deep: float = 0.1, idle_few: int = 8, idle_many: int = 2, ratio: float = 0.3, seeds: int = 4, lost: int = 0
) -> dict[str, pd.DataFrame]:
    """Networks of 3 and of 10 parts, of which with few or many samples so many can be deleted without harm.

    Parts that are in use grow with the depth: all three of the shallow network. `deep` is what depth adds to the test
    error; the plain twin has no branches whose size could be measured, and no part that can be spared.
    """
    rng = np.random.default_rng(0)
    runs, parts = [], []
    for variant in VARIANTS:
        for depth, count in ((8, 3), (32, 10)):
            for samples, idle in ((50, idle_few), (ALL_SAMPLES, idle_many)):
                for seed in range(seeds):
                    place = {"variant": variant, "depth": depth, "samples": samples, "seed": seed}
                    gone = variant == "plain" and depth == 32 and seed < lost
                    error = np.nan if gone else 0.1 + deep * (depth == 32) + rng.normal(0, 0.001)
                    gap = error - 0.05 if variant == "plain" else error - 0.02
                    row = {"status": "diverged" if gone else "ok", "test_error": error, "train_error": error - gap}
                    runs.append({**place, **row, "gap": gap})
                    spared = min(idle, count - 1) - (seed == 0) if depth == 32 and variant != "plain" else 0
                    for part in range(1, count + 1) if not gone else ():
                        harm = 0.0 if part <= spared else 0.5
                        size = np.nan if variant == "plain" else ratio * rng.uniform(0.99, 1.01)
                        sizes = {"ratio": size, "ratio_initial": 0.6 if variant != "plain" else np.nan}
                        parts.append({**place, "part": part, "error_change": harm, **sizes})
    return postprocess({"runs": pd.DataFrame(runs), "parts": pd.DataFrame(parts)})


def said(tables: dict[str, pd.DataFrame], *words: str) -> list[str]:
    return [line for line in sentences(tables) if all(word in line for word in words)]


def test_what_is_in_use_is_counted_from_the_parts() -> None:
    runs = synthetic()["runs"]
    deep = runs[(runs["depth"] == 32) & (runs["samples"] == 50) & (runs["variant"] == "post-activation")]
    assert list(deep["dispensable"]) == pytest.approx([0.7, 0.8, 0.8, 0.8])
    assert list(deep["needed"]) == [3, 2, 2, 2]
    assert list(deep["near_identity"]) == [0, 0, 0, 0]
    assert runs[runs["variant"] == "plain"]["near_identity"].isna().all()


def test_known_effects_are_stated() -> None:
    tables = synthetic()
    harm = said(tables, "post-activation, 50 samples, 32 layers against 8: more depth increases")
    assert len(harm) == 1
    assert "+10.0 points" in harm[0] or "+9.9" in harm[0] or "+10.1" in harm[0]
    (less,) = said(tables, "With fewer samples a larger share", "post-activation, 32 layers")
    assert "difference +60.0 points" in less
    (more,) = said(tables, f"post-activation, {ALL_SAMPLES} samples", "needs")
    assert "the deeper network needs more of its blocks" in more
    assert "; +5.2" in more
    first = next(line for line in sentences(tables) if line.startswith("post-activation"))
    assert ": part of the network is dispensable. 17.5 % ± 8.0 of blocks" in first
    (near,) = said(tables, "post-activation (depth 32, samples 50)", "near the identity")
    assert "0.0 % ± 0.0 of blocks" in near
    assert "2 times smaller" in near


def test_the_opposite_is_stated_too() -> None:
    tables = synthetic(deep=-0.05, idle_few=2, idle_many=9, ratio=NEAR_IDENTITY / 2)
    assert said(tables, "post-activation, 50 samples", "more depth decreases")
    assert said(tables, "With fewer samples a smaller share", "pre-activation")
    assert said(tables, "pre-activation (depth 32, samples 50): 100.0 %", "near the identity")


def test_blocks_are_pushed_to_the_identity_only_where_they_did_not_begin_there() -> None:
    def agreed(initial: float) -> set[str]:
        tables = synthetic(ratio=NEAR_IDENTITY / 2)
        parts, runs = tables["parts"], tables["runs"]
        given = {"runs": runs[["variant", "depth", "samples", "seed", "status", "test_error", "train_error", "gap"]]}
        start = parts["ratio_initial"].where(parts["ratio_initial"].isna(), initial)
        tables = postprocess({**given, "parts": parts.assign(ratio_initial=start)})
        return {claim.agrees for claim in claims(tables) if "push the branch" in claim.claim}

    assert agreed(NEAR_IDENTITY / 2) == {"not shown"}
    assert agreed(0.6) == {"yes"}


def test_no_effect_is_not_claimed() -> None:
    tables = synthetic(deep=0.0, idle_few=4, idle_many=4)
    assert "95 % interval -" in said(tables, "post-activation", "no clear effect of depth on the test error")[0]
    # The shares are equal in each seed, so there is no interval.
    assert "no difference in any of 4 seeds" in said(tables, "No clear effect", "post-activation, 32 layers")[0]


def test_one_seed_claims_nothing() -> None:
    for line in sentences(synthetic(seeds=1)):
        assert "95 %" not in line
        assert not any(
            word in line for word in ("more depth", "With fewer", "network needs", "part of the network is dispensable")
        )
    assert {claim.agrees for claim in claims(synthetic(seeds=1))} == {"not shown"}


def test_diverged_runs_are_left_out() -> None:
    assert "paired over 2 seeds" in said(synthetic(lost=2), "plain, 50 samples, 32 layers against 8")[0]
    assert "no seed has both" in said(synthetic(lost=4), "plain, 50 samples, 32 layers against 8")[0]


def test_claims_follow_the_numbers() -> None:
    found = {claim.source.partition(",")[0]: claim for claim in claims(synthetic())}
    assert found["Veit et al. 2016"].agrees == "yes"
    assert "0.0 % ± 0.0 of blocks" in found["He et al. 2016"].found
    near = [claim for claim in claims(synthetic(ratio=NEAR_IDENTITY / 2)) if "push" in claim.claim]
    assert {claim.agrees for claim in near} == {"yes"}
    assert {claim.agrees for claim in claims(synthetic()) if "push" in claim.claim} == {"not shown"}


@pytest.mark.parametrize("samples", [10, 50, 730, ALL_SAMPLES])
def test_fewer_samples_make_an_epoch_of_the_same_length(samples: int) -> None:
    data = digits()
    less = training_subset(data, samples, 1)
    assert len(less.train) == len(data.train)  # and so as many steps
    kept = torch.unique(less.train.x.flatten(1), dim=0)
    assert (
        len(kept) == len(torch.unique(data.train.x[: len(data.train)].flatten(1), dim=0))
        if samples == ALL_SAMPLES
        else samples
    )
    counts = torch.bincount(less.train.y[:samples], minlength=10)
    assert counts.max() - counts.min() <= 1 or samples > 1300  # then the rarest class is used up
    repeats = torch.unique(less.train.x.flatten(1), dim=0, return_counts=True)[1]
    assert repeats.max() - repeats.min() <= 1


def test_what_a_seed_draws_for_fewer_is_part_of_what_it_draws_for_more() -> None:
    data = digits()
    few, more, other = (training_subset(data, n, seed).train.x for n, seed in ((50, 0), (200, 0), (50, 1)))
    assert torch.equal(few[:50], more[:50])
    assert not torch.equal(few[:50], other[:50])


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="choose 10"):
        is_valid({"samples": 5, "depth": 8})
    with pytest.raises(UsageError, match="6n \\+ 2"):
        is_valid({"samples": 50, "depth": 9})


@pytest.mark.parametrize(("variant", "parts"), [("plain", 4), ("post-activation", 3), ("pre-activation", 3)])
def test_a_run_has_its_tables(variant: str, parts: int, tmp_path: Path) -> None:
    recipe = asdict(Recipe(epochs=1, batch_size=256))
    settings = {"variant": variant, "depth": 8, "samples": 20, "seed": 0, "recipe": recipe, "device": "cpu"}
    tables = work(RunContext(settings, tmp_path, lambda *_: None))
    row, own = tables["runs"].iloc[0], tables["parts"]
    assert row["gap"] == row["test_error"] - row["train_error"]
    assert list(own["part"]) == list(range(1, parts + 1))  # of plain's six, two change the shape
    assert own["ratio"].isna().all() == (variant == "plain")
    placed = {name: table.assign(variant=variant, depth=8, samples=20, seed=0) for name, table in tables.items()}
    both = postprocess(placed)["runs"].iloc[0]
    assert both["dispensable"] == pytest.approx((own["error_change"] < DISPENSABLE).mean())
    assert both["needed"] == pytest.approx(parts * (1 - both["dispensable"]))
