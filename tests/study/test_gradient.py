"""The question of the lowest layer's gradient: its sentences on planted numbers, and a run on a small network."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from skiplab.data import batches, digits
from skiplab.errors import UsageError
from skiplab.study.networks import RESIDUAL
from skiplab.study.questions.gradient import STUDY, VARIANTS, build, claims, is_valid, sentences, work
from skiplab.study.run_cell import RunContext


def synthetic(first: dict[str, float], seeds: int = 4, lost: int = 0) -> dict[str, pd.DataFrame]:
    """Networks of 8 layers whose first gradient is 1, and of 56 where it is as given; correlation 0.1 or 0.8."""
    waves = {8: (1, 1, -1, -1), 56: (1, -1, 1, -1)}  # noise without a mean, in the differences neither
    runs, lengths = [], []
    for variant in VARIANTS:
        for depth in (8, 56):
            for seed in range(seeds):
                where = {"variant": variant, "depth": depth, "norm": "batch", "seed": seed}
                gone = variant == "plain" and depth == 56 and seed < lost
                norm = (first.get(variant, 1.0) if depth == 56 else 1.0) * np.exp(0.05 * waves[depth][seed])
                row = {
                    "status": "diverged" if gone else "ok",
                    "parameters": 100,
                    "first_gradient": norm,
                    "first_to_last": norm,
                    "correlation": (0.1 if variant == "plain" else 0.8) + 0.01 * waves[depth][seed],
                    "mean_length": 3.0,
                    "relative_length": np.nan if variant == "plain" else 0.25 + 0.01 * waves[depth][seed],
                }
                if gone:
                    row |= dict.fromkeys(list(row)[2:], np.nan)
                runs.append(where | row)
                if variant != "plain":
                    lengths += [where | {"length": k, "weight": [0.1, 0.8, 0.1][k]} for k in range(3)]
    return {"runs": pd.DataFrame(runs), "lengths": pd.DataFrame(lengths)}


def agreed(tables: dict[str, pd.DataFrame]) -> dict[str, str]:
    return {f"{claim.source.split()[0]} {claim.found}": claim.agrees for claim in claims(tables)}


def test_explosion_is_said_and_levelness_too() -> None:
    answer = next(iter(sentences(synthetic({"plain": 1000.0}))))
    larger, _, level = answer.partition("; no clear difference in ")
    assert "larger in plain (" in larger
    assert "post-activation (" in level
    assert "pre-activation (" in level
    assert "includes" not in larger


def test_vanishing_is_said_and_denies_the_paper() -> None:
    tables = synthetic({"plain": 1e-3})
    assert "smaller in plain (" in next(iter(sentences(tables)))
    found = agreed(tables)
    assert [agrees for place, agrees in found.items() if place.startswith("He")] == ["no"]
    assert [agrees for place, agrees in found.items() if place.startswith("Yang")] == ["no"]


def test_claims_that_the_numbers_bear_out() -> None:
    found = agreed(synthetic({"plain": 1000.0}))
    assert set(found.values()) == {"yes"}
    assert len(found) == 2 + 2 * len(RESIDUAL)
    growth = next(place for place in found if place.startswith("Yang"))
    assert f"grows {1000 ** (1 / 48):.3g} ±" in growth  # 48 layers more


def test_no_effect_is_not_claimed() -> None:
    tables = synthetic({})
    tables["runs"]["correlation"] = [0.5 + 0.1 * (-1) ** (i // 2) * (i // 8 - 1) for i in range(len(tables["runs"]))]
    said = " ".join(sentences(tables))
    assert "larger in" not in said
    assert "smaller in" not in said
    assert ": no clear difference (" in said
    assert ": higher (" not in said
    assert ": lower (" not in said
    assert not {"no", "yes"} & {agrees for place, agrees in agreed(tables).items() if not place.startswith("Veit")}


def test_one_seed_claims_nothing() -> None:
    tables = synthetic({"plain": 1000.0}, seeds=1)
    assert not any("95 % interval" in sentence for sentence in sentences(tables))
    assert set(agreed(tables).values()) == {"not shown"}


def test_runs_without_a_gradient_are_left_out() -> None:
    tables = synthetic({"plain": 1000.0}, lost=4)
    assert "plain (fewer than two seeds to compare)" in next(iter(sentences(tables)))


def test_what_no_network_has_is_refused() -> None:
    with pytest.raises(UsageError, match="norm 'layer'"):
        is_valid({"depth": 8, "norm": "layer"})
    with pytest.raises(UsageError, match="6n \\+ 2"):
        is_valid({"depth": 9, "norm": "batch"})


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_run_gives_the_gradient_that_autograd_gives(variant: str, norm: str, tmp_path: Path) -> None:
    settings = {"variant": variant, "depth": 8, "norm": norm, "seed": 1}
    tables = work(RunContext(settings, tmp_path, lambda *_: None))
    runs = tables["runs"].iloc[0]
    torch.manual_seed(1)
    model: Any = build(settings).train()
    x, y = next(batches(digits().train, 256))
    F.cross_entropy(model(x), y).backward()
    assert runs["first_gradient"] == pytest.approx(float(model.conv1.weight.grad.norm()), rel=1e-4)
    last = model.layer3[-1].conv2.weight.grad.norm()
    assert runs["first_to_last"] == pytest.approx(float(model.conv1.weight.grad.norm() / last), rel=1e-4)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()) == (norm == "batch")
    if variant == "plain":
        assert np.isnan(runs["mean_length"])
    else:
        assert tables["lengths"]["weight"].sum() == pytest.approx(1)
        assert tables["lengths"]["length"].max() == 3
        assert 0 < runs["relative_length"] < 1


def test_variants_have_the_same_initial_weights() -> None:
    networks = []
    for variant in VARIANTS:
        torch.manual_seed(0)
        networks.append(build({"variant": variant, "depth": 8, "norm": "none"}))
    first, *others = (dict(network.named_parameters()) for network in networks)
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_grids_name_what_the_study_has() -> None:
    assert all(STUDY.cells(grid) for grid in STUDY.grids.values())
