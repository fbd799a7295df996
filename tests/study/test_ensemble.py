"""The question of the ensemble: its sentences on planted numbers, and a run on a small network."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from skiplab.data import digits
from skiplab.models.resnet import resnet
from skiplab.study.networks import RESIDUAL
from skiplab.study.questions.ensemble import (
    CHANCE,
    PLAIN,
    STUDY,
    VARIANTS,
    claims,
    crossing,
    deletion_groups,
    lesion_tables,
    outcomes,
    sentences,
    work,
)
from skiplab.study.run_cell import RunContext, error_rate
from skiplab.training.fit import Recipe, fit

WAVE = (1, 1, -1, -1)  # noise over seeds that cancels
BLOCKS = 9


def synthetic(layer: float, block: float, seeds: int = 4, lost: int = 0) -> dict[str, pd.DataFrame]:
    """Networks of which each deletion takes a share of what there is to lose; `lost` runs of plain diverged."""
    lesions, runs, lengths = [], [], []
    for variant in VARIANTS:
        for seed in range(seeds):
            where = {"variant": variant, "depth": 20, "seed": seed}
            if variant == PLAIN and seed < lost:
                runs.append(
                    {**where, "status": "diverged", **dict.fromkeys(("one", "harmless", "half", "swap"), np.nan)}
                )
                continue
            own = []
            most = 1 if variant == PLAIN else BLOCKS
            for k in range(most + 1):
                share = min(1.0, k * (layer if variant == PLAIN else block)) + (0.001 * WAVE[seed] if k else 0.0)
                change = share * CHANCE
                for batchnorm in ("as trained", "re-estimated") if k == 1 else ("as trained",):
                    row = {"k": k, "batchnorm": batchnorm, "error": change, "error_change": change, "lost": share}
                    own += [
                        {"what": what, **row} for what in ("deletion", "swap") if variant != PLAIN or what == "deletion"
                    ]
            tables = {"lesions": pd.DataFrame(own)}
            if variant != PLAIN:
                weights = {0: 0.1, 1: 0.2 + 0.01 * WAVE[seed], 2: 0.7 - 0.01 * WAVE[seed], BLOCKS: 0.0}
                table = {
                    "length": list(weights),
                    "weight": list(weights.values()),
                    "path_share": [0.01, 0.04, 0.05, 0.9],
                }
                tables["lengths"] = pd.DataFrame(table)
                lengths.append(tables["lengths"].assign(**where))
            runs.append({**where, "status": "ok", **outcomes(tables)})
            lesions.append(tables["lesions"].assign(**where))
    return {
        "runs": pd.DataFrame(runs),
        "lesions": pd.concat(lesions, ignore_index=True),
        "lengths": pd.concat(lengths, ignore_index=True),
    }


def said(tables: dict[str, pd.DataFrame], *words: str) -> list[str]:
    return [line for line in sentences(tables) if all(word in line for word in words)]


def agreed(tables: dict[str, pd.DataFrame]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for claim in claims(tables):
        found.setdefault(claim.claim.split(" of ")[0], set()).add(claim.agrees)
    return found


def test_of_a_network_that_never_finished_nothing_is_said() -> None:
    lines = said(synthetic(0.9, 0.01, lost=4), "plain-20")
    assert lines[0] == "No run of plain-20 finished, so nothing was deleted."
    assert not any("nan" in line for line in lines)


def test_a_network_no_better_than_chance_has_nothing_to_lose() -> None:
    tables = synthetic(0.9, 0.01)
    tables["lesions"].loc[tables["lesions"]["variant"] == PLAIN, "lost"] = np.nan
    assert "no margin" in said(tables, "Deleting one layer of plain-20")[0]


def test_an_ensemble_and_a_chain_are_told_apart() -> None:
    tables = synthetic(layer=1.0, block=0.05)
    assert len(said(tables, "one layer of plain-20 minus one block", ": difference +95.0 points")) == 2
    assert "100.0 % ± 0.2 of the margin" in said(tables, "Deleting one layer of plain-20")[0]
    assert set().union(*agreed(tables).values()) == {"yes"}


def test_half_is_where_it_was_planted() -> None:
    tables = synthetic(layer=1.0, block=0.1)
    lines = said(tables, "loses half of its margin")
    assert len(lines) == len(RESIDUAL)
    for line in lines:
        assert "when 5 ± 0.0" in line
        assert f"of its {BLOCKS} blocks" in line
        assert "error and number of deletions 1 ± 0" in line


def test_a_residual_network_that_is_a_chain_too_denies_the_paper() -> None:
    tables = synthetic(layer=1.0, block=1.0)
    assert len(said(tables, "minus one block", "no ")) == 2
    assert agreed(tables)["Deleting one block"] == {"no"}


def test_no_effect_is_not_claimed() -> None:
    tables = synthetic(layer=0.0, block=0.0)
    assert len(said(tables, "Deleting one", "(no clear change)")) == 1 + len(RESIDUAL)
    assert agreed(tables)["Deleting any one layer"] == {"no"}


def test_short_paths_are_told_with_their_number() -> None:
    line = said(synthetic(1.0, 0.05), "post-activation", "branches on average")[0]
    assert "by paths through 0 to 2, which are 10 % of all paths" in line


def test_one_seed_claims_nothing() -> None:
    tables = synthetic(layer=1.0, block=0.05, seeds=1)
    assert not said(tables, "95 % interval")
    assert set().union(*agreed(tables).values()) == {"not shown"}


def test_runs_that_diverged_are_left_out() -> None:
    some = synthetic(layer=1.0, block=0.05, lost=2)
    assert len(said(some, "minus one block", "paired over 2 seeds")) == 2
    none = synthetic(layer=1.0, block=0.05, lost=4)
    assert len(said(none, "no difference can be computed")) == 2
    assert not list(sentences({"runs": none["runs"]}))


@pytest.mark.parametrize(
    ("values", "place"),
    [((0, 0.2, 0.6, 1), 1.75), ((0, 0.1), np.nan), ((0.7, 0.9), 0.0), ((0, 1), 0.5)],
)
def test_crossing_is_interpolated(values: tuple[float, ...], place: float) -> None:
    assert crossing(pd.Series(values), 0.5) == pytest.approx(place, nan_ok=True)


def test_groups_are_drawn_once_and_of_every_size_up_to_all() -> None:
    ids = [f"block{i}" for i in range(12)]
    drawn = deletion_groups(ids, seed=3)
    assert drawn == deletion_groups(ids, seed=3)
    assert drawn != deletion_groups(ids, seed=4)
    assert len({tuple(group) for group in drawn}) == len(drawn)
    assert all(len(set(group)) == len(group) for group in drawn)
    assert {len(group) for group in drawn} == {2, 3, 4, 6, 8, 11, 12}
    assert drawn[-1] == ids


class Without(nn.Module):
    """A network of which some blocks give what enters them, written down by hand."""

    model: Any

    def __init__(self, model: nn.Module, gone: list[str]) -> None:
        super().__init__()
        self.model, self.gone = model, gone

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        model = self.model
        x = torch.relu(model.bn1(model.conv1(x)))
        for stage in model.stages:
            for number, block in enumerate(model.get_submodule(stage)):
                x = torch.relu(block.shortcut(x)) if f"{stage}.{number}" in self.gone else block(x)
        return model.fc(model.avgpool(x).flatten(1))


def test_damage_is_what_deleting_by_hand_gives() -> None:
    torch.manual_seed(0)
    model = resnet(20, width=4, in_channels=1)
    data = digits()
    untrained = lesion_tables(model.eval(), data, seed=0)["lesions"]
    assert untrained["lost"].iloc[2:].isna().all()  # nothing to lose
    model = fit(model, data, Recipe(epochs=2, learning_rate=0.1), device="cpu").model
    table = lesion_tables(model, data, seed=0)["lesions"]
    deleted = table[(table["what"] == "deletion") & (table["batchnorm"] == "as trained")]
    assert set(deleted["k"]) == {0, 1, 2, 3, 4, 6, 8, 9}
    for row in deleted.groupby("k").head(2).to_dict("records"):
        gone = row["id"].split(" + ") if row["id"] else []
        with torch.no_grad():
            output = Without(model, gone)(data.test.x)
        assert row["error"] == pytest.approx(float(error_rate(output, data.test.y)), abs=0.003)
        assert len(gone) == row["k"]
    single = deleted[deleted["k"] == 1]
    assert single["position"].tolist() == pytest.approx(np.arange(1, 10) / 9)
    assert (single["lost"] * (CHANCE - deleted["error"].iloc[0])).tolist() == pytest.approx(
        single["error_change"].tolist()
    )


@pytest.mark.parametrize("variant", [PLAIN, "pre-activation"])
def test_a_run(variant: str, tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, batch_size=512, learning_rate=0.1)
    settings: dict[str, Any] = {"variant": variant, "depth": 8, "seed": 0, "recipe": vars(recipe), "device": "cpu"}
    tables = work(RunContext(settings, tmp_path, lambda *_: None))
    row = tables["runs"].iloc[0]
    assert row["status"] == "ok"
    one = tables["lesions"].query("what == 'deletion' and k == 1 and batchnorm == 'as trained'")
    assert row["one"] == pytest.approx(one["error_change"].mean())
    assert row["test_error"] == pytest.approx(tables["lesions"]["error"].iloc[0], abs=1e-6)
    assert ("lengths" in tables) == (variant != PLAIN)


def test_grids_name_what_the_study_has() -> None:
    assert all(STUDY.cells(grid) for grid in STUDY.grids.values())
