"""The study of long skips: its sentences on synthetic results, and a tiny run of it."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from skiplab.data import canvases
from skiplab.models import unet
from skiplab.study.by_seed import select_rows
from skiplab.study.long_skips import lesion_table, route_table
from skiplab.study.questions.unet import STUDY, VARIANTS, build, claims, postprocess, sentences, work
from skiplab.study.run_cell import RunContext
from skiplab.study.segmentation_errors import balanced_errors
from skiplab.training.recipe import Recipe

CUTS = (("zero", "as trained"), ("noise", "as trained"), ("zero", "re-estimated"))
TRAINED = [name for name in VARIANTS if name not in ("without-2", "without-3")]


def synthetic(edge: float, inside: float, seeds: int = 4, lost: tuple[str, ...] = ()) -> dict[str, pd.DataFrame]:
    """All networks without long skips are worse by these at edges and inside, and by their mean in overlap; so is the
    trained network when its long skips are replaced."""
    rng, place = np.random.default_rng(0), {"depth": 2, "canvases": 10}
    runs, cut, census, routed = [], [], [], []
    for variant in TRAINED:
        worse = float("none" in variant)
        census.append({"variant": variant, **place, "fewest": 12 if worse else 4})
        row: dict[str, Any] = {"variant": variant, **place, "route": "bottom", "resolution": 6}
        routed.append({**row, "fewest": 7 if "residual" in variant else 12, "most": 12})
        for seed in range(seeds):
            row = {"variant": variant, **place, "seed": seed, "status": "ok"}
            e, i = (base + worse * by + rng.normal(0, 1e-3) for base, by in ((0.2, edge), (0.1, inside)))
            found = {"edge_error": e, "inside_error": i, "overlap": 0.8 - e - i, "train_error": e, "test_error": e}
            if variant in lost:
                row, found = {**row, "status": "diverged"}, dict.fromkeys(found, float("nan"))
            runs.append({**row, **found})
            if variant == "all" and variant not in lost:
                for level, way in (("0", "long skip"), ("1", "long skip"), ("all", "long skip"), ("0", "way below")):
                    for replacement, norms in CUTS:
                        at = {"variant": variant, **place, "seed": seed, "level": level, "way": way}
                        changes = (by + rng.normal(0, 1e-3) for by in (edge, inside))
                        found = dict(zip(("edge_change", "inside_change"), changes, strict=True))
                        found |= {"edge": e + found["edge_change"], "inside": i + found["inside_change"]}
                        cut.append({**at, "replacement": replacement, "batchnorm": norms, **found})
    frames = {"runs": runs, "census": census, "routes": routed} | ({"lesions": cut} if cut else {})
    return {name: pd.DataFrame(rows) for name, rows in frames.items()}


def said(tables: dict[str, pd.DataFrame], *words: str) -> list[str]:
    return [line for line in sentences(tables) if all(word in line for word in words)]


def test_what_costs_more_at_edges_is_said_to_be_of_edges() -> None:
    tables = synthetic(0.2, 0.1)
    (first, *_) = sentences(tables)
    assert first.startswith("Trained without long skips: ")
    assert re.search(r"change at edges \+(19.9|20.[01]) points", first)
    assert re.search(r"inside \+(9.9|10.[01]) points", first)
    assert re.search(r"the error rises more at edges, by (9.9|10.[01]) points", first)
    (cut,) = said(tables, "all long skips zeroed:")
    assert "the error rises more at edges" in cut
    (trained,) = said(tables, "Overlap", " in none (depth 2, canvases 10)", " in all ")
    assert re.search(r"; difference -(29.9|30.[01]) points", trained)
    agree = {claim.source.split()[0] + claim.claim[:2]: claim.agrees for claim in claims(tables)}
    assert [agree[name] for name in ("RonnebergerTo", "DrozdzalLo", "WilmTh")] == ["yes"] * 3
    assert agree["WilmA "] == "not shown"


def test_the_other_way_round() -> None:
    (line,) = said(synthetic(0.05, 0.2), "all long skips zeroed:")
    assert re.search(r"the error rises more inside, by (14.9|15.[01])", line)
    by_source = {claim.claim: claim.agrees for claim in claims(synthetic(0.05, 0.2))}
    assert by_source["Long skips recover spatial information that is lost in downsampling."] == "no"


def test_an_error_that_falls_is_no_loss_of_edges() -> None:
    """Without long skips the error inside falls by more than that at edges, which says nothing of lost edges."""
    tables = synthetic(0.0, -0.05)
    (first, *_) = sentences(tables)
    assert re.search(r"the error rises more at edges, by (4.9|5.[01]) points", first)
    by_source = {claim.claim: claim.agrees for claim in claims(tables)}
    assert by_source["Long skips recover spatial information that is lost in downsampling."] == "not shown"


def test_at_chance_nothing_is_said_of_where() -> None:
    """Half of the error is all that there is to lose: 0.2 and 0.1 that rise to 0.5 rise by unlike amounts."""
    lines = said(synthetic(0.3, 0.4), "Lesion of trained")
    assert len(lines) == 6
    assert all("the errors 50 % and 50 % are near chance" in line for line in lines)
    assert not [line for line in lines if "rises more" in line]


def test_no_effect_is_not_shown() -> None:
    tables = synthetic(0.0, 0.0)
    lines = [*said(tables, "change at edges"), *said(tables, "Overlap with the digits")]
    assert len(lines) > 8
    assert all("no clear" in line for line in lines)
    assert {claim.agrees for claim in claims(tables)} == {"not shown"}


def test_a_single_seed_claims_nothing() -> None:
    tables = synthetic(0.3, 0.1, seeds=1)
    lines = said(tables, "change at edges")
    assert len(lines) > 4
    assert all("single seed" in line for line in lines)
    assert {claim.agrees for claim in claims(tables)} == {"not shown"}


@pytest.mark.parametrize("lost", [("all",), ("none",), tuple(TRAINED)], ids=["all", "none", "every"])
def test_runs_that_diverged_leave_no_nan_in_a_sentence(lost: tuple[str, ...]) -> None:
    tables = postprocess(synthetic(0.3, 0.1, lost=lost))
    assert not [line for line in sentences(tables) if "nan" in line]
    assert all(claim.agrees == "not shown" for claim in claims(tables) if "none" in lost and "none" in claim.found)


@pytest.mark.parametrize("kept", [["all"], ["none", "add"], ["residual", "without-1"]], ids=str)
def test_any_choice_of_variants_gives_sentences(kept: list[str]) -> None:
    tables = {name: table[table["variant"].isin(kept)] for name, table in synthetic(0.3, 0.1).items()}
    tables = {name: table for name, table in tables.items() if len(table)}
    assert list(sentences(postprocess(tables)))
    list(claims(tables))


@pytest.mark.parametrize("depth", [1, 3])
def test_nonlinearities_of_routes_in_closed_form(depth: int) -> None:
    """A way over level k's skip passes two ReLUs at the top, on the way down a pool and two ReLUs a level, on the way
    up two a level, and k + 1 levels are come up to; with short skips one of each two ReLUs is enough."""
    data = canvases(count=4, size=24)
    for residual, each in ((False, 2), (True, 1)):
        table = route_table(unet(depth=depth, width=2, residual=residual), data)
        assert list(table["route"]) == [*(f"level {k}" for k in range(depth)), "bottom"]
        wanted = [2 + 3 * k + 2 * (k + 1) for k in range(depth)] + [2 + 5 * depth]
        assert list(table["most"]) == wanted
        fewest = [each + (1 + each) * k + each * (k + 1) for k in range(depth)] + [each + (1 + 2 * each) * depth]
        assert list(table["fewest"]) == fewest
        assert list(table["resolution"]) == [24 // 2**k for k in range(depth + 1)]


@pytest.mark.parametrize("combine", ["concat", "add"])
def test_lesions_by_hand(combine: Any) -> None:
    torch.manual_seed(0)
    data, net = (
        canvases(count=16, size=16, classes="foreground"),
        unet(depth=2, width=3, norm=True, combine=combine).eval(),
    )
    table = lesion_table(net, data)
    error, (x, y) = balanced_errors(data.test), (data.test.x, data.test.y)
    top: Any = net.level
    for level, blocks in (("0", [top]), ("1", [top.inner]), ("all", [top, top.inner])):
        kept = [block.shortcut for block in blocks]
        with torch.no_grad():
            whole = net(x)
            for block in blocks:
                block.shortcut = torch.zeros_like
            cut = net(x)
        for block, shortcut in zip(blocks, kept, strict=True):
            block.shortcut = shortcut
        where = {"way": "long skip", "level": level, "replacement": "zero", "batchnorm": "as trained"}
        (row,) = select_rows(table, where).to_dict("records")
        for name, function in (("edge", error.edge), ("inside", error.inside)):
            assert row[name] == pytest.approx(float(function(cut, y).mean()))
            assert row[f"{name}_change"] == pytest.approx(float((function(cut, y) - function(whole, y)).mean()))


def test_a_run_leaves_its_tables(tmp_path: Path) -> None:
    recipe = asdict(Recipe(epochs=1, batch_size=8, learning_rate=0.01, optimizer="adamw"))
    for variant in ("all", "without-0"):
        folder = tmp_path / variant
        folder.mkdir()
        settings = {"variant": variant, "depth": 1, "canvases": 8, "seed": 0, "recipe": recipe, "device": "cpu"}
        tables = work(RunContext(settings, folder, lambda *_: None))
        (row,) = tables["runs"].to_dict("records")
        assert row["status"] == "ok"
        assert row["parameters"] == sum(p.numel() for p in build(variant, 1).parameters())
        zones = tables["zones"]
        assert (zones["pixels"] * zones["wrong"].fillna(0)).sum() / zones["pixels"].sum() == pytest.approx(
            row["test_error"]
        )
        assert ("lesions" in tables) == (variant == "all")
        assert len(tables["routes"]) == (2 if variant == "all" else 1)


def test_a_level_that_is_not_there_cannot_be_without_its_skip() -> None:
    cells = STUDY.cells(STUDY.grids["quick"])
    assert {cell.config["variant"] for cell in cells} == set(TRAINED)
