"""The study `span`: that variants differ in their skips alone, and what is said of planted effects."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from skiplab.data import digits
from skiplab.edit import fold
from skiplab.errors import UsageError
from skiplab.models.resnet import resnet
from skiplab.study.question import Grid
from skiplab.study.questions.span import LINEAR, PLAIN, STUDY, VARIANTS, claims, is_valid, sentences, work
from skiplab.study.run_cell import RunContext, build_with_seed, capture_and_find
from skiplab.training.fit import Recipe

BEST_TWO = {"plain": 0.4, **{f"span{n}-{p}": e for p in ("post", "pre") for n, e in ((1, 0.3), (2, 0.1), (3, 0.2))}}


def synthetic(errors: Mapping[str, float] = BEST_TWO, seeds: int = 4, lost: int = 0) -> dict[str, pd.DataFrame]:
    """Errors at 38 layers within 0.2 points of those planted; plain has five times the gradient of all others."""
    rng = np.random.default_rng(0)
    runs, gradient, census = [], [], []
    for variant in VARIANTS:
        for depth in (20, 38):
            place = {"variant": variant, "depth": depth}
            linear = depth - 2 if variant == LINEAR else 0
            census.append({**place, "fewest": depth - 1, "skips": 0, "foldable": linear})
            for seed in range(seeds):
                gone = variant == PLAIN and depth == 38 and seed < lost
                error = np.nan if gone else errors[variant] + rng.normal(0, 0.0005)
                status = "diverged" if gone else "ok"
                runs.append({**place, "seed": seed, "status": status, "test_error": error, "train_error": error})
                norm = (5.0 if variant == PLAIN else 1.0) * rng.uniform(0.99, 1.01)
                gradient.append({**place, "seed": seed, "order": 1, "gradient_norm": norm})
    frames = {"runs": runs, "gradient": gradient, "census": census}
    return {name: pd.DataFrame(rows) for name, rows in frames.items()}


def said(tables: dict[str, pd.DataFrame], *words: str) -> list[str]:
    return [line for line in sentences(tables) if all(word in line for word in words)]


def test_known_effects_are_stated() -> None:
    tables = synthetic()
    assert "Post-activation, 38 layers: the span matters" in next(iter(sentences(tables)))
    (line,) = said(tables, "Post-activation, 38 layers, span 1 against span 2: worse")
    assert "+20.0 points" in line or "+19.9" in line or "+20.1" in line
    assert said(tables, "Pre-activation, 38 layers, span 2 against span 3: better")
    assert said(tables, "Test error", "in span2-pre-38", "in plain-38; difference -")
    assert said(tables, "gradient in plain-38 is 5 times larger", "that in span3-post")


def test_the_special_case_says_what_it_shows() -> None:
    (finding,) = said(synthetic(), "has 0 skip connections: its 36 sums are linear")
    assert "most linear path has 37 nonlinearities, that of plain-38 37" in finding
    assert len(said(synthetic(), "span1-post trains better than plain")) == 2
    assert len(said(synthetic({**BEST_TWO, LINEAR: 0.5}), "span1-post trains worse than plain")) == 2
    neither = said(synthetic(dict.fromkeys(VARIANTS, 0.2)), "span1-post and plain show no clear difference")
    assert len(neither) == 2
    assert all("(95 % interval" in line for line in neither)


def test_no_effect_is_not_claimed() -> None:
    tables = synthetic(dict.fromkeys(VARIANTS, 0.2))
    lines = said(tables, "against span", "no clear difference")
    assert len(lines) == 6
    assert any("95 % interval -" in line for line in lines)
    assert len(said(tables, "no clear effect of the span")) == sum(
        all("no clear" in line for line in said(tables, "against span", where)) for where in ("Post-", "Pre-")
    )


def test_one_seed_claims_nothing() -> None:
    for line in sentences(synthetic(seeds=1)):
        assert "95 %" not in line
        assert not any(
            word in line for word in ("span matters", ": worse", ": better", "trains worse", "trains better")
        )
    assert {claim.agrees for claim in claims(synthetic(seeds=1))} == {"not shown"}


def test_diverged_runs_are_left_out() -> None:
    assert "paired over 2 seeds" in said(synthetic(lost=2), "in span2-pre-38", "in plain-38")[0]
    assert "no seed has both" in said(synthetic(lost=4), "in span2-pre-38", "in plain-38")[0]


@pytest.mark.parametrize(("linear", "agrees"), [(0.3, "no"), (0.5, "yes")])
def test_claims_follow_the_numbers(linear: float, agrees: str) -> None:
    single, one, three = claims(synthetic({**BEST_TWO, LINEAR: linear}))
    assert "He et al." in single.source
    assert single.agrees == agrees
    assert (one.agrees, three.agrees) == ("yes", "yes")


def test_depths_that_have_no_whole_blocks_leave_a_span_out() -> None:
    shown = {cell.config["variant"] for cell in STUDY.cells(Grid(axes={"depth": (8,)}, seeds=1))}
    assert shown == {name for name in VARIANTS if "span3" not in name}
    assert all(is_valid({"depth": 20, "variant": name}) for name in VARIANTS)
    with pytest.raises(UsageError, match="6n \\+ 2"):
        is_valid({"depth": 21, "variant": PLAIN})


def convolutions(model: nn.Module) -> list[torch.Tensor]:
    return [module.weight for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def test_all_variants_begin_with_the_same_weights() -> None:
    plain, *others = [
        build_with_seed(lambda o=o: resnet(20, width=2, in_channels=1, **o), 0) for o in VARIANTS.values()
    ]
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(convolutions(plain), convolutions(other), strict=True))


def test_a_span_of_one_folds_into_the_plain_network() -> None:
    """All its sums but the two where the shape changes, whose shortcut is no convolution, become a convolution."""
    model = build_with_seed(lambda: resnet(20, width=2, in_channels=1, **VARIANTS[LINEAR]), 0)
    for name, buffer in model.named_buffers():  # as after training, where a norm is not the identity
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    program, skips = capture_and_find(model.eval(), digits())
    assert [apart.reason for apart in skips.non_skips] == ["foldable"] * 18
    folded = fold(program)
    x = digits().test.x[:4]
    assert torch.allclose(folded.module()(x), model(x), rtol=1e-3, atol=1e-4)
    assert sum("add" in op.target for op in folded.ops if op.kind != "weight") == 2


@pytest.mark.parametrize(("variant", "skips", "foldable"), [(PLAIN, 0, 0), (LINEAR, 0, 6), ("span2-pre", 3, 0)])
def test_a_run_has_its_tables(variant: str, skips: int, foldable: int, tmp_path: Path) -> None:
    recipe = asdict(Recipe(epochs=1, batch_size=256))
    settings = {"variant": variant, "depth": 8, "seed": 0, "recipe": recipe, "device": "cpu"}
    tables = work(RunContext(settings, tmp_path, lambda *_: None))
    row = tables["census"].iloc[0]
    assert (row["skips"], row["foldable"]) == (skips, foldable)
    assert row["fewest"] == (1 if variant == "span2-pre" else 7)  # of 8 weight layers all but the last have a ReLU
    assert set(tables["gradient"]["when"]) == {"initialization"}
    assert tables["runs"]["status"].item() == "ok"
