"""Sentences on synthetic results with a known effect, with none, with one seed, and with runs that diverged."""

import re

import numpy as np
import pandas as pd
import pytest

from skiplab.stats.intervals import Interval, student
from skiplab.study.claims import equivalence
from skiplab.study.questions.depth import sentences
from skiplab.study.sentences import (
    diverged_sentences,
    format_difference,
    format_percent,
    format_points,
    format_ratio,
    lesion_sentences,
    parameter_sentences,
    unlearned_sentences,
)

VARIANTS = ("plain", "post-activation", "pre-activation")


def synthetic(plain_error: float, other_error: float, seeds: int = 4, diverged: int = 0) -> dict[str, pd.DataFrame]:
    """Errors of the deep networks around the given means; shallow ones are all alike."""
    rng = np.random.default_rng(0)
    runs, gradients, census = [], [], []
    for variant in VARIANTS:
        for depth in (8, 50):
            error = (plain_error if variant == "plain" else other_error) if depth == 50 else 0.02
            census.append({"variant": variant, "depth": depth, "fewest": depth, "skips": 0})
            for seed in range(seeds):
                noise = rng.normal(0, 0.002)
                lost = variant == "plain" and depth == 50 and seed < diverged
                runs.append(
                    {
                        "variant": variant,
                        "depth": depth,
                        "seed": seed,
                        "status": "diverged" if lost else "ok",
                        "test_error": np.nan if lost else error + noise,
                        "train_error": np.nan if lost else error + noise,
                    }
                )
                for when in ("initialization", "trained"):
                    norm = (8.0 if variant == "plain" else 1.0) * rng.uniform(0.99, 1.01)
                    row = {"variant": variant, "depth": depth, "seed": seed, "when": when}
                    gradients.append({**row, "order": 1, "gradient_norm": norm})
    frames = {"runs": runs, "gradient": gradients, "census": census}
    return {name: pd.DataFrame(rows) for name, rows in frames.items()}


def said(tables: dict[str, pd.DataFrame], *words: str) -> list[str]:
    return [line for line in sentences(tables) if all(word in line for word in words)]


def test_a_known_effect_is_stated_with_its_interval() -> None:
    lines = said(synthetic(0.6, 0.02), "Test error", "post-activation-50")
    assert len(lines) == 1
    stated = re.search(r"difference \+([\d.]+) points", lines[0])
    assert stated is not None
    assert float(stated[1]) == pytest.approx(58, abs=1)
    assert lines[0].startswith("Test error: ")
    assert "no clear" not in lines[0]


def test_no_effect_is_no_clear_difference() -> None:
    lines = said(synthetic(0.02, 0.02), "Test error", "in plain-50")
    assert len(lines) == 2
    assert all("no clear difference" in line and "95 % interval -" in line for line in lines)


def test_gradient_ratio_is_the_planted_one() -> None:
    lines = said(synthetic(0.6, 0.02), "At initialization", "pre-activation-50")
    assert "8 times larger" in lines[0]


def test_one_seed_claims_nothing() -> None:
    for line in sentences(synthetic(0.6, 0.02, seeds=1)):
        assert "95 %" not in line


def test_diverged_runs_are_named_and_left_out() -> None:
    lines = list(diverged_sentences(synthetic(0.6, 0.02, diverged=2)["runs"], ["depth"]))
    assert [line.partition(" runs")[0] for line in lines] == ["plain-50 diverged in 2 of 4"]
    assert "paired over 2 seeds" in said(synthetic(0.6, 0.02, diverged=2), "post-activation-50", "Test error")[0]


def test_all_diverged_gives_no_difference() -> None:
    assert "no difference can be computed" in said(synthetic(0.6, 0.02, diverged=4), "Test error")[0]


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (Interval(9000, 5000, 20000, 3), "9,000 times larger (95 % interval 5,000 to 20,000) than"),
        (Interval(3378491542, 1.2e9, 9.96e9, 8), "3.4·10⁹ times larger (95 % interval 1.2·10⁹ to 1.0·10¹⁰) than"),
        (Interval(1.04, 1.01, 1.07, 3), "1.04 times larger (95 % interval 1 to 1.1) than"),
        (Interval(0.5, 0.4, 0.6, 3), "2 times smaller (95 % interval 1.7 to 2.5) than"),
        (
            Interval(2.0, 0.5, 8.0, 3),
            "not clearly different (2 times larger; 95 % interval 0.5 to 8) from",
        ),
    ],
)
def test_times(ratio: Interval, words: str) -> None:
    assert format_ratio(ratio) == words


def test_percent_and_exact_equality() -> None:
    assert format_percent(Interval(0.412, 0.352, 0.472, 3)) == "41.2 % ± 6.0"
    assert format_difference(Interval(0, 0, 0, 3)) == "no difference in any of 3 seeds."


@pytest.mark.parametrize(
    ("found", "agrees"),
    [
        (Interval(0.01, 0.005, 0.015, 3), "yes"),  # a difference, and a small one
        (Interval(0.0, -0.04, 0.04, 3), "yes"),
        (Interval(0.1, 0.06, 0.14, 3), "no"),
        (Interval(-0.1, -0.14, -0.06, 3), "no"),
        (Interval(0.0, -0.3, 0.3, 3), "not shown"),
        (Interval(0.0, float("nan"), float("nan"), 1), "not shown"),
    ],
)
def test_alike_needs_a_narrow_interval(found: Interval, agrees: str) -> None:
    assert equivalence(found, within=0.05) == agrees


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (100, "the same number of parameters"),
        (107, "at most 7 % more"),
        (1800, "at most 18 times as many (b 1,800, a 100)"),
    ],
)
def test_parameters_are_compared_between_variants(more: int, words: str) -> None:
    runs = pd.DataFrame({"variant": ["a", "b"], "depth": 8, "parameters": [100, more]})
    sentence = next(iter(parameter_sentences(runs, ["depth"])))
    assert words in sentence


def test_networks_that_differ_in_size_are_named_by_what_changes_their_size() -> None:
    places = [(v, d, w) for v in "ab" for d in (2, 4) for w in (False, True)]
    runs = pd.DataFrame(places, columns=["variant", "depth", "warmup"])
    runs["parameters"] = 100 * runs["depth"] + (runs["variant"] == "b") * 10
    (sentence,) = parameter_sentences(runs, ["depth", "warmup"])
    assert sentence.endswith("at most 5 % more (b-2 210, a-2 200).")


def test_networks_that_have_not_learned_are_named() -> None:
    runs = pd.DataFrame(
        [(variant, seed, error) for variant, error in (("a", 0.02), ("b", 0.7), ("c", np.nan)) for seed in range(3)],
        columns=["variant", "seed", "train_error"],
    )
    (sentence,) = unlearned_sentences(runs, [])
    assert sentence.startswith("Not trained (training error above 50 %): b (70.0 % ± 0.0). Measurements")
    assert not list(unlearned_sentences(runs[runs["variant"] != "b"], []))
    assert not list(unlearned_sentences(runs.drop(columns="train_error"), []))
    many = pd.DataFrame({"variant": [f"v{i}" for i in range(9)], "seed": 0, "train_error": 0.9})
    assert "v5 (90.0 %) and 3 more. Measurements" in next(unlearned_sentences(many, []))


@pytest.mark.parametrize("blocks", [1, 2])
def test_lesions_of_one_block_are_not_averaged(blocks: int) -> None:
    rows = [(f"block{i}", seed, 0.02 * i + 0.001 * seed) for i in range(1, blocks + 1) for seed in range(3)]
    lesion = pd.DataFrame(rows, columns=["id", "seed", "error_change"]).assign(variant="a")
    (sentence,) = lesion_sentences({"lesion": lesion}, {"variant": "a"})
    where = "only block: `block1` (+2.1)." if blocks == 1 else "mean over 2 blocks; largest at `block2` (+4.1)."
    assert sentence.endswith(where)


def test_points_of_few_runs_or_none() -> None:
    assert format_points(student([0.01])) == "+1.0 points on a single seed"
    assert format_points(student([])) == "no value"
