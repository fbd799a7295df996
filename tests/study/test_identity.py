"""The study of the identity: what its networks can express, what is linear of them, and its sentences."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from skiplab.analysis.path_census import census
from skiplab.errors import UsageError
from skiplab.graph.capture import capture
from skiplab.models.mlp import mlp
from skiplab.study.question import Grid
from skiplab.study.questions import identity
from skiplab.study.questions.identity import STUDY, TEST_SAMPLES, TRAIN_SAMPLES, build, claims, make_data, sentences
from skiplab.study.run_cell import RunContext

ERRORS = {"plain": 0.8, "post": 0.4, "pre": 0.2, "pre-open": 0.02, "linear": 0.1, "linear-skip": 0.01, "unet": 0.3}


def synthetic(errors: dict[str, float], seeds: int = 4, worse: float = 1.0) -> dict[str, pd.DataFrame]:
    """Errors whose geometric mean over seeds is the given one at 18 layers, and `worse` times less at 8."""
    rng = np.random.default_rng(0)
    runs, paths = [], []
    for name, error in errors.items():
        for depth in (8, 18):
            paths.append({"variant": name, "depth": depth, "target": "identity", "fewest": depth})
            luck = rng.normal(0, 0.01, seeds)
            for seed in range(seeds):
                left = error / (worse if depth == 8 else 1) * float(np.exp(luck[seed] - luck.mean()))
                row = {"variant": name, "depth": depth, "target": "identity", "seed": seed, "status": "ok"}
                runs.append({**row, "test_error": left, "train_error": left, "first_gradient": left})
    return {"runs": pd.DataFrame(runs), "census": pd.DataFrame(paths)}


def said(tables: dict[str, pd.DataFrame], *words: str) -> list[str]:
    return [line for line in sentences(tables) if all(word in line for word in words)]


def test_known_ratios_are_stated() -> None:
    tables = synthetic(ERRORS, worse=3)
    first = next(iter(sentences(tables)))
    assert first.startswith("Unexplained variance of the identity on new samples, 18 layers: linear-skip 1.0 %")
    assert first.index("pre-open") < first.index("pre 20.0") < first.index("plain 80.0")
    assert "20 times larger" in said(tables, "a ReLU after every addition")[0]
    assert "10 times larger" in said(tables, "one ReLU at the end")[0]
    assert "15 times larger" in said(tables, "the U-Net of 18 layers")[0]
    assert "more in plain, post, pre" in said(tables, "18 layers compared with 8")[0]
    assert {claim.agrees for claim in claims(tables)} == {"yes"}


def test_no_effect_says_that_the_interval_includes_one() -> None:
    tables = synthetic(dict.fromkeys(ERRORS, 0.05))
    assert "not clearly different" in said(tables, "a ReLU after every addition")[0]
    assert "no clear difference in plain" in said(tables, "18 layers compared with 8")[0]
    assert [claim.agrees for claim in claims(tables)] == ["not shown", "not shown", "not shown", "no"]


def test_one_seed_claims_nothing() -> None:
    tables = synthetic(ERRORS, seeds=1, worse=3)
    assert not any("95 %" in line for line in sentences(tables))
    assert said(tables, "18 layers compared with 8") == []
    assert {claim.agrees for claim in claims(tables)} == {"not shown"}


def test_runs_that_diverged_and_variants_left_out_are_passed_over() -> None:
    tables = synthetic({name: ERRORS[name] for name in ("plain", "pre-open")})
    lost = tables["runs"]["variant"] == "plain"
    tables["runs"].loc[lost, ["test_error", "train_error"]] = np.nan
    lines = list(sentences(tables))
    assert lines[0].endswith("pre-open 2.0 % ± 0.0; no run of plain finished.")
    assert not any("a ReLU after" in line or "no shortcuts against" in line for line in lines)
    assert list(claims(tables)) == []


def test_a_plain_network_can_be_the_identity() -> None:
    """The construction argument: x = relu(x) − relu(−x), carried on by layers that are the identity."""
    network = mlp(8, 12, in_features=6, out_features=6, skip=None)
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    eye = torch.eye(6)
    with torch.no_grad():
        for layer, weight in zip(
            linear, [torch.cat((eye, -eye)), *[torch.eye(12)] * 6, torch.cat((eye, -eye), 1)], strict=True
        ):
            layer.weight.copy_(weight)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(x), x)


def bent(model: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Whether f(x + y) differs from f(x) + f(y) − f(0)."""
    whole, parts = model(x + y), model(x) + model(y) - model(torch.zeros_like(x))
    return not torch.allclose(whole, parts, atol=1e-4)


FEWEST = {"plain": 7, "post": 4, "pre": 1, "pre-open": 0, "linear": 0, "linear-skip": 0, "unet": 4}


@pytest.mark.parametrize("variant", FEWEST)
def test_nonlinearities_are_where_the_variant_says(variant: str) -> None:
    torch.manual_seed(0)
    model = build(variant, 8).eval()
    x, y = torch.randn(2, 4, 1, 8, 8)
    assert census(capture(model, (x,))).nonlinearities.min == FEWEST[variant]
    begins_linear = variant in ("pre-open", "linear", "linear-skip")  # with each block's factor still at 0
    assert bent(model, x, y) is not begins_linear
    for name, parameter in model.named_parameters():
        if "alpha" in name:
            nn.init.ones_(parameter)
    assert bent(model, x, y) is not variant.startswith("linear")


def test_samples() -> None:
    same, turned, images = make_data("identity", 3, images=False), make_data("orthogonal", 3, images=False), None
    assert torch.equal(same.train.x.flatten(1), same.train.y)
    assert torch.equal(same.test.x, turned.test.x)
    x, y = turned.train.x.flatten(1).double(), turned.train.y.double()
    torch.testing.assert_close(x @ x.T, y @ y.T, atol=1e-3, rtol=1e-4)  # lengths and angles stay
    assert (x - y).norm() > x.norm()
    images = make_data("identity", 3, images=True)
    assert torch.equal(images.train.x, images.train.y)
    assert (len(images.train), len(images.test)) == (TRAIN_SAMPLES, TEST_SAMPLES)
    assert not torch.equal(images.train.x, make_data("identity", 4, images=True).train.x)


def test_settings_that_no_network_has() -> None:
    with pytest.raises(UsageError, match="even number"):
        STUDY.cells(Grid(axes={"depth": (9,), "target": ("identity",)}))
    with pytest.raises(UsageError, match="target"):
        STUDY.cells(Grid(axes={"depth": (8,), "target": ("zero",)}))
    cells = STUDY.cells(Grid(axes={"depth": (8, 18, 50), "target": identity.TARGETS}, seeds=1))
    unets = [(cell.config["depth"], cell.config["target"]) for cell in cells if cell.config["variant"] == "unet"]
    assert unets == [(8, "identity"), (18, "identity")]


@pytest.mark.parametrize("variant", ["linear-skip", "unet"])
def test_a_run_leaves_its_tables(variant: str, tmp_path: Path) -> None:
    recipe = identity.RECIPE.__class__(
        epochs=1, batch_size=256, learning_rate=1e-3, optimizer="adamw", eval_samples=256
    )
    cell = STUDY.cells(
        Grid(axes={"depth": (8,), "target": ("identity",)}, seeds=1, recipe=recipe, device="cpu", variants=(variant,))
    )[0]
    tables = STUDY.work(RunContext(cell.config, tmp_path, lambda *_: None))
    row = tables["runs"].iloc[0]
    assert row["status"] == "ok"
    assert 0 < row["test_error"] < 10
    assert row["first_gradient"] > 0
    assert tables["census"]["fewest"].tolist() == [FEWEST[variant]]
    if variant == "linear-skip":  # the first layer's gradient by hand: all blocks are the identity, their factors 0
        data, model = make_data("identity", 0, images=False), None
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = build(variant, 8)
        x, y = data.train.x[:256].flatten(1), data.train.y[:256]
        first, last = (model.get_parameter(f"{name}.weight").detach() for name in ("first", "last"))
        by_hand = last.T @ ((x @ first.T @ last.T - y) * 2 / y.numel()).T @ x
        assert row["first_gradient"] == pytest.approx(float(by_hand.norm()), rel=1e-4)
