import copy
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from skiplab.data import DataSet, Split, digits
from skiplab.errors import DataError, DivergedError, OutputError, UsageError
from skiplab.graph.capture import capture
from skiplab.models import resnet
from skiplab.training.checkpoint import discard
from skiplab.training.fit import Recipe, Run, evaluate, fit, learning_rate_at

RECIPE = Recipe(epochs=3, batch_size=16, learning_rate=0.05, warmup_epochs=0.5)


def points(shift: float = 0.0) -> DataSet:
    """Seventy points of three classes; 50 to learn from, which is no multiple of the batch size."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(70) % 3
    x = torch.randn(70, 6, generator=generator) + y[:, None] + shift
    return DataSet("points", Split(x[:50], y[:50]), Split(x[50:], y[50:]), classes=3)


def network(width: int = 8) -> nn.Sequential:
    """Draws randomness while it trains, and has statistics and a frozen weight beside the trained ones."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        net = nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 3))
    net[0].bias.requires_grad_(False)
    return net


def same_tensors(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def same_run(a: Run, b: Run) -> bool:
    epochs = [run.history.drop(columns="seconds") for run in (a, b)]
    return same_tensors(a.model, b.model) and epochs[0].equals(epochs[1]) and a.steps.equals(b.steps)


def timeless(folder: Path) -> dict[str, Any]:
    """The whole content of a run's folder, apart from what a clock wrote."""
    content: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
    content["log.jsonl"] = re.sub(rb'"seconds": [^}]*', b"", content["log.jsonl"])
    content["history.csv"] = pd.read_csv(folder / "history.csv").drop(columns="seconds").to_csv()
    content["run.json"] = json.loads(content["run.json"])
    del content["run.json"]["log_bytes"]  # a time may take a digit more
    return content


# The loop against one written by hand


def test_fit_is_the_plain_loop_bit_for_bit() -> None:
    """SGD written the way PyTorch's tutorials do, and every logged number computed anew."""
    data, recipe = digits(), Recipe(epochs=2, batch_size=500, learning_rate=0.1, weight_decay=1e-3)
    net = resnet(8, width=4, in_channels=1)
    run = fit(net, data, recipe, device="cpu")

    hand = copy.deepcopy(net)
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    generator = torch.Generator().manual_seed(0)
    step = 0
    for epoch in range(2):
        hand.train()
        order, losses, wrong = torch.randperm(1437, generator=generator), 0.0, 0
        for start in (0, 500, 1000):
            chosen = order[start : start + 500]
            optimizer.param_groups[0]["lr"] = 0.1 * (1 + math.cos(math.pi * step / 6)) / 2
            optimizer.zero_grad()
            logits = hand(data.train.x[chosen])
            loss = F.cross_entropy(logits, data.train.y[chosen])
            loss.backward()
            gradients = [p.grad for p in hand.parameters() if p.grad is not None]
            norm = sum(g.double().square().sum().item() for g in gradients) ** 0.5
            optimizer.step()
            row = run.steps.iloc[step]
            assert row["loss"] == loss.item()
            assert row["gradient_norm"] == pytest.approx(norm, rel=1e-5)
            assert (row["epoch"], row["step"]) == (epoch + 1, step + 1)
            losses += loss.item() * len(chosen)
            wrong += (logits.argmax(1) != data.train.y[chosen]).sum().item()
            step += 1
        row = run.history.iloc[epoch]
        assert row["running_loss"] == pytest.approx(losses / 1437, rel=1e-6)
        assert row["running_error"] == pytest.approx(wrong / 1437, rel=1e-6)
        for part, split in (("train", data.train), ("test", data.test)):
            with torch.no_grad():
                logits = hand.eval()(split.x)
            assert row[f"{part}_loss"] == pytest.approx(F.cross_entropy(logits, split.y).item(), rel=1e-4)
            assert row[f"{part}_error"] == pytest.approx((logits.argmax(1) != split.y).double().mean().item())
    assert same_tensors(run.model, hand)
    assert run.status == "finished"


def test_training_learns() -> None:
    history = fit(network(), points(), replace(RECIPE, epochs=20)).history
    assert history["test_error"].iloc[-1] < 0.3  # by chance: 0.67
    assert history["train_loss"].iloc[-1] < 0.7 * history["train_loss"].iloc[0]


def test_what_was_handed_in_stays_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    net, twin, state = network(), network(), torch.get_rng_state()
    run = fit(net, points(), RECIPE, on_epoch=lambda _: None)
    assert same_tensors(net, twin)
    assert net.training
    assert all(p.grad is None for p in [*net.parameters(), *run.model.parameters()])
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr().out == ""
    assert torch.equal(run.model.state_dict()["0.bias"], net.state_dict()["0.bias"])  # frozen
    assert not run.model.training


def test_the_seed_decides_and_nothing_else() -> None:
    def draw(_: dict[str, Any]) -> None:
        torch.manual_seed(time.time_ns())
        torch.rand(3)

    first = fit(network(), points(), RECIPE)
    torch.rand(5)
    assert same_run(first, fit(network(), points(), RECIPE, on_epoch=draw))
    assert not same_run(first, fit(network(), points(), replace(RECIPE, seed=1)))


def test_bfloat16_trains_with_weights_in_float32() -> None:
    run = fit(network(), points(), replace(RECIPE, precision="bf16-mixed"))
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert not same_tensors(run.model, fit(network(), points(), RECIPE).model)
    assert not run.history["train_loss"].hasnans


def images() -> DataSet:
    """Small images of three classes; 50 to learn from, as `points`."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(70) % 3
    x = torch.randn(70, 2, 6, 6, generator=generator) + y[:, None, None, None]
    return DataSet("images", Split(x[:50], y[:50]), Split(x[50:], y[50:]), classes=3)


def convolutions() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        layers = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(8, 3))


def test_adamw_and_clipping_are_pytorchs() -> None:
    data = points()
    recipe = Recipe(epochs=2, batch_size=50, learning_rate=0.05, optimizer="adamw", beta2=0.9, clip=0.1)
    net = nn.Linear(6, 3)
    run = fit(net, data, recipe, device="cpu")
    hand, norms = copy.deepcopy(net), []
    optimizer = torch.optim.AdamW(hand.parameters(), lr=0.05, betas=(0.9, 0.9), weight_decay=1e-4)
    generator = torch.Generator().manual_seed(0)
    for step in range(2):
        chosen = torch.randperm(50, generator=generator)
        optimizer.param_groups[0]["lr"] = learning_rate_at(recipe, step, 1)
        optimizer.zero_grad()
        F.cross_entropy(hand(data.train.x[chosen]), data.train.y[chosen]).backward()
        norms.append(float(nn.utils.clip_grad_norm_(hand.parameters(), 0.1)))
        optimizer.step()
    assert same_tensors(run.model, hand)
    assert run.steps["gradient_norm"].to_list() == norms  # before clipping
    assert min(norms) > 0.1


def test_augmented_training_is_the_plain_loop_on_the_same_draws() -> None:
    from skiplab.training.augment import augment_batch, draw_augmentation

    data, recipe, net = images(), Recipe(epochs=1, batch_size=16, augment="crop-flip", padding=2), convolutions()
    net[5] = nn.Identity()
    run = fit(net, data, recipe, device="cpu")
    hand, generator = copy.deepcopy(net).train(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(hand.parameters(), momentum=0.9, weight_decay=1e-4)
    for step, chosen in enumerate(torch.randperm(50, generator=generator).split(16)):
        x = augment_batch(data.train.x[chosen], draw_augmentation(len(chosen), "crop-flip", 2, generator), 2)
        optimizer.param_groups[0]["lr"] = learning_rate_at(recipe, step, 4)
        optimizer.zero_grad()
        F.cross_entropy(hand(x), data.train.y[chosen]).backward()
        optimizer.step()
    assert same_tensors(run.model, hand)
    assert evaluate(hand, data.train, 16) == (run.history["train_loss"].iloc[0], run.history["train_error"].iloc[0])


def test_fast_is_bfloat16_where_there_are_units_and_leaves_no_trace_on_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from skiplab.training import precision

    net, data = convolutions(), images()
    runs = {name: fit(net, data, replace(RECIPE, precision=name), device="cpu") for name in ("32-true", "bf16-mixed")}
    for units, same in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(precision, "has_bfloat16_units", lambda device, units=units: units)
        run = fit(net, data, replace(RECIPE, precision="fast"), device="cpu")
        for name, tensor in run.model.state_dict().items():
            assert tensor.dtype == net.state_dict()[name].dtype
            assert tensor.stride() == net.state_dict()[name].stride()
        losses = {name: abs(each.steps["loss"][0] - run.steps["loss"][0]) for name, each in runs.items()}
        assert min(losses, key=lambda name: losses[name]) == same  # layouts alone differ by roundings
        assert losses[same] < 1e-5 or units


def test_a_fast_run_is_taken_up_only_where_fast_means_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skiplab.training import precision

    recipe = replace(RECIPE, precision="fast")
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda device: True)
    fit(network(), points(), recipe, tmp_path, device="cpu")
    monkeypatch.setattr(precision, "has_bfloat16_units", lambda device: False)
    with pytest.raises(DataError, match=r"fast was bf16-mixed channels-last, now 32-true channels-last; .*--fresh"):
        fit(network(), points(), recipe, tmp_path, device="cpu")


def test_epochs_may_be_judged_on_a_few_and_the_last_is_judged_on_all() -> None:
    run, few = fit(network(), points(), RECIPE), fit(network(), points(), replace(RECIPE, eval_samples=10))
    assert same_tensors(run.model, few.model)
    assert few.steps.equals(run.steps)
    same = run.history.drop(columns="seconds") == few.history.drop(columns="seconds")
    assert same.drop(columns=["train_loss", "train_error"]).all(axis=None)
    assert same["train_loss"].tolist() == [False, False, True]
    assert (few.history["train_error"] * 10).iloc[0] == pytest.approx(round(few.history["train_error"].iloc[0] * 10))


def test_evaluate_puts_every_mode_back() -> None:
    net, split = network(), points().test
    net[1].eval()
    modes = [module.training for module in net.modules()]
    loss, error = evaluate(net, split, batch_size=7)
    assert [module.training for module in net.modules()] == modes
    probabilities = net.eval()(split.x).softmax(1).detach().numpy()
    expected = -np.log(probabilities[np.arange(20), split.y.numpy()]).mean()
    assert loss == pytest.approx(expected, rel=1e-5)
    assert error == np.mean(probabilities.argmax(1) != split.y.numpy())


# Learning rates


def test_cosine_is_pytorchs() -> None:
    recipe = Recipe(epochs=4, learning_rate=0.3)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=28)
    for step in range(28):
        assert learning_rate_at(recipe, step, 7) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        schedule.step()


def test_steps_are_the_papers() -> None:
    """64,000 steps at 0.1, divided by 10 at 32,000 and at 48,000: He et al. 2016, §4.2."""
    recipe = Recipe(epochs=64, learning_rate=0.1, schedule="step")
    rates = {step: learning_rate_at(recipe, step, 1000) for step in (0, 31999, 32000, 47999, 48000, 63999)}
    assert list(rates.values()) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@given(st.integers(1, 20), st.integers(1, 30), st.floats(0, 1), st.sampled_from(["cosine", "step"]))
def test_rates_climb_to_the_full_rate_and_then_never_rise(epochs: int, steps: int, share: float, schedule: Any) -> None:
    recipe = Recipe(epochs=epochs, schedule=schedule, warmup_epochs=share * epochs, learning_rate=0.2)
    rates = [learning_rate_at(recipe, step, steps) for step in range(epochs * steps)]
    warmup = round(share * epochs * steps)
    climbing = [0.2 * (step + 1) / (warmup + 1) for step in range(warmup)]
    assert rates[:warmup] == pytest.approx(climbing)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[warmup:]))
    assert all(0 < rate <= 0.2 for rate in rates)
    if schedule == "cosine" and warmup < len(rates):
        assert rates[warmup] == pytest.approx(0.2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"schedule": "linear"},
        {"warmup_epochs": 31.0},
        {"seed": -1},
        {"precision": "8-bit"},
        {"optimizer": "lion"},
        {"beta2": 1.0},
        {"clip": 0.0},
        {"augment": "flip"},
        {"padding": 0},
        {"eval_samples": -1},
    ],
)
def test_recipes_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}="):
        Recipe(**wrong)


# The folder


def test_the_folder_holds_the_finished_run(tmp_path: Path) -> None:
    run = fit(network(), points(), RECIPE, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"identity.json", "run.json", "log.jsonl", "model.safetensors", "history.csv"}
    fresh = network()
    fresh.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    assert same_tensors(fresh, run.model)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == (["step"] * 4 + ["epoch"]) * 3
    assert pd.DataFrame([r for r in rows if r["kind"] == "step"]).drop(columns="kind").equals(run.steps)
    assert len(pd.read_csv(tmp_path / "history.csv")) == 3
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "finished"
    assert same_run(run, fit(network(), points(), RECIPE))  # writing changes nothing


def test_a_finished_run_is_not_trained_or_written_again(tmp_path: Path) -> None:
    run = fit(network(), points(), RECIPE, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = fit(network(), points(), RECIPE, tmp_path, on_epoch=lambda _: pytest.fail("an epoch was trained"))
    assert same_run(run, again)
    assert again.history.equals(run.history)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path, stop: int) -> None:
    def stopping(row: dict[str, Any]) -> None:
        if row["epoch"] == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(network(), points(), RECIPE, tmp_path / "a", on_epoch=stopping)
    seen: list[int] = []
    resumed = fit(network(), points(), RECIPE, tmp_path / "a", on_epoch=lambda row: seen.append(row["epoch"]))
    assert seen == list(range(stop + 1, 4))
    assert same_run(resumed, fit(network(), points(), RECIPE, tmp_path / "b"))
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")


OTHER = {
    "adamw": {"optimizer": "adamw", "learning_rate": 0.01, "clip": 0.5},
    "crop-flip": {"augment": "crop-flip", "padding": 1},
    "fast": {"precision": "fast", "augment": "crop"},
    "fast-adamw": {"precision": "fast", "optimizer": "adamw"},
}


@pytest.mark.parametrize("name", OTHER)
def test_other_recipes_go_on_as_if_they_had_never_stopped(name: str, tmp_path: Path) -> None:
    def stopping(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    recipe = replace(RECIPE, **OTHER[name])
    with pytest.raises(KeyboardInterrupt):
        fit(convolutions(), images(), recipe, tmp_path / "a", on_epoch=stopping, device="cpu")
    resumed = fit(convolutions(), images(), recipe, tmp_path / "a", device="cpu")
    assert same_run(resumed, fit(convolutions(), images(), recipe, tmp_path / "b", device="cpu"))
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")
    assert not same_tensors(resumed.model, fit(convolutions(), images(), RECIPE, device="cpu").model)


def test_a_run_kept_before_recipes_had_more_fields_is_the_same_run(tmp_path: Path) -> None:
    """Its identity.json has the nine fields of then."""
    run = fit(network(), points(), RECIPE, tmp_path)
    kept = json.loads((tmp_path / "identity.json").read_text())["recipe"]
    first = "epochs batch_size learning_rate momentum weight_decay schedule warmup_epochs seed precision".split()
    assert list(kept) == first
    assert Recipe(**kept) == RECIPE
    assert same_run(run, fit(network(), points(), RECIPE, tmp_path, on_epoch=lambda _: pytest.fail("trained")))
    with pytest.raises(DataError, match=r"recipe\.optimizer was None, now adamw"):
        fit(network(), points(), replace(RECIPE, optimizer="adamw"), tmp_path)


class Killed(BaseException):
    pass


def fit_until(moment: int, folder: Path, recipe: Recipe) -> bool:
    """Trains up to the given one of all synchronisations, renamings and removals; says if it got that far."""
    calls = itertools.count()

    def counted(call: Any) -> Any:
        def run(*args: Any, **options: Any) -> None:
            if next(calls) >= moment:
                raise Killed
            call(*args, **options)

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(Path, "unlink", counted(Path.unlink))  # so that nothing is cleaned up, either
        patch.setattr(os, "getpid", lambda: 1)
        try:
            fit(network(), points(), recipe, folder)
        except Killed:
            return True
    return False


def test_a_run_killed_at_any_of_its_writes_goes_on(tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=2)
    whole = fit(network(), points(), recipe, tmp_path / "whole")
    expected = timeless(tmp_path / "whole")
    moment = 0
    while fit_until(moment, tmp_path / str(moment), recipe):
        assert same_run(fit(network(), points(), recipe, tmp_path / str(moment)), whole)
        assert timeless(tmp_path / str(moment)) == expected
        moment += 1
    assert moment > 30


SCRIPT = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[2]))
from test_fit import RECIPE, fit, network, points, replace
recipe = replace(RECIPE, epochs=40)
fit(network(), points(), recipe, sys.argv[1], on_epoch=lambda row: time.sleep(0.02))
"""


def test_a_run_killed_by_the_system_goes_on(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": paths}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, tmp_path / "a", str(torch.get_num_threads())], env=environment
    )
    deadline, epoch = time.monotonic() + 60, 0
    while epoch < 5 and time.monotonic() < deadline and process.poll() is None:
        record = tmp_path / "a" / "run.json"
        epoch = json.loads(record.read_text())["epoch"] if record.exists() else 0
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 5 <= epoch < 40
    recipe = replace(RECIPE, epochs=40)
    resumed = fit(network(), points(), recipe, tmp_path / "a")
    assert same_run(resumed, fit(network(), points(), recipe, tmp_path / "b"))
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")


def stopped(folder: Path) -> None:
    """Leaves a run of RECIPE after its first epoch."""

    def stop(_: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(network(), points(), RECIPE, folder, on_epoch=stop)


@pytest.mark.parametrize("finished", [False, True])
def test_another_run_in_the_folder_is_left_alone(tmp_path: Path, finished: bool) -> None:
    if finished:
        fit(network(), points(), RECIPE, tmp_path)
    else:
        stopped(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    fix = "choose another folder, or start over with --fresh"
    with pytest.raises(DataError, match=rf"recipe\.learning_rate was 0\.05, now 0\.1; {fix}"):
        fit(network(), points(), replace(RECIPE, learning_rate=0.1), tmp_path)
    with pytest.raises(DataError, match=rf"data\.crc32 was .*{fix}"):
        fit(network(), points(shift=1.0), RECIPE, tmp_path)
    with pytest.raises(DataError, match=rf"weights\.0\.weight was \[8, 6\], now \[9, 6\]; .* and \d+ more; .*{fix}"):
        fit(network(width=9), points(), RECIPE, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_new_start_where_another_run_was(tmp_path: Path) -> None:
    stopped(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    discard(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    recipe = replace(RECIPE, learning_rate=0.1)
    assert same_run(fit(network(), points(), recipe, tmp_path), fit(network(), points(), recipe))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", b"{", "run.json is damaged"),
        ("run.json", b"[]", "run.json is damaged"),
        ("run.json", b'{"status": "running"}', "run.json is damaged .*epoch"),
        ("identity.json", b"{", "identity.json is damaged"),
        ("identity.json", b"[]", r"holds other results: the identity was \[\]"),
        ("identity.json", b'{"format": 2}', "format was 2, now 1"),
        ("checkpoint-1.safetensors", b"x" * 100, "checkpoint-1.safetensors is damaged"),
        ("log.jsonl", b"", r"log.jsonl is damaged .*0 of \d+ bytes are left"),
        ("log.jsonl", b"x" * 9999, "log.jsonl is damaged"),
    ],
)
def test_damaged_folders(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    stopped(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=f"{message}.*--fresh"):
        fit(network(), points(), RECIPE, tmp_path)


def test_a_log_that_is_no_runs_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("mine")
    with pytest.raises(DataError, match=r"holds other results: log\.jsonl without identity\.json"):
        fit(network(), points(), RECIPE, tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == "mine"


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file, not a folder"):
        fit(network(), points(), RECIPE, tmp_path / "file" / "run")


def test_a_disk_that_fills_up_loses_no_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, calls = os.fsync, itertools.count()

    def full(descriptor: int) -> None:
        if next(calls) > 12:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left on device; free some space"):
            fit(network(), points(), RECIPE, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["epoch"] >= 1
    assert same_run(fit(network(), points(), RECIPE, tmp_path), fit(network(), points(), RECIPE))


class Tied(nn.Module):
    """Two names for one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x).tanh()))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    net = Tied()

    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(net, points(), RECIPE, tmp_path, on_epoch=stop)
    resumed = fit(net, points(), RECIPE, tmp_path)
    assert same_run(resumed, fit(net, points(), RECIPE))
    assert isinstance(resumed.model, Tied)
    assert resumed.model.a.weight is resumed.model.b.weight


# What goes wrong


def test_a_run_that_diverges_keeps_its_log(tmp_path: Path) -> None:
    recipe = replace(RECIPE, learning_rate=1e30, momentum=0.0, warmup_epochs=0.0)
    message = r"epoch 1, step (\d).*below 1e\+30.*warm-up"
    with pytest.raises(DivergedError, match=message) as raised:
        fit(network(), points(), recipe, tmp_path)
    before = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(DivergedError, match=re.escape(str(raised.value))):  # known from the folder
        fit(network(), points(), recipe, tmp_path)
    assert (tmp_path / "log.jsonl").read_bytes() == before
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[-1]["loss"] is None
    assert f"step {rows[-1]['step']}:" in str(raised.value)
    assert all(row["loss"] is not None for row in rows[:-1])
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "diverged"
    with pytest.raises(DivergedError):
        fit(network(), points(), recipe)


class Breaking(nn.Module):
    """Gives NaN from a certain training step on."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.left -= self.training
        return self.head(x) / (self.left >= 0)


@pytest.mark.parametrize("steps", [1, 31, 32, 33, 49, 50, 75])
def test_the_broken_step_is_named_wherever_the_losses_are_read(tmp_path: Path, steps: int) -> None:
    recipe = replace(RECIPE, batch_size=1, learning_rate=1e-3)
    epoch = steps // 50 + 1
    with pytest.raises(DivergedError, match=f"epoch {epoch}, step {steps + 1}:") as raised:
        fit(Breaking(steps), points(), recipe, tmp_path)
    assert len(raised.value.history) == epoch - 1
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum(row["kind"] == "step" for row in rows) == steps + 1
    assert sum(row["kind"] == "epoch" for row in rows) == epoch - 1


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Linear(5, 3), r"does not take the samples of points \(6, float32\): mat1 and mat2"),
        (nn.Linear(6, 2), r"shape \(2,\), and 3 classes need \(3,\): build it with num_classes=3"),
        (nn.Unflatten(1, (2, 3)), r"shape \(2, 3\)"),
        (nn.RNN(6, 3), r"returns a tuple .* wrap it"),
        (nn.Bilinear(6, 6, 3), "missing 1 required positional argument"),
    ],
)
def test_models_that_do_not_fit_the_data(net: nn.Module, message: str) -> None:
    net.register_parameter("weight_of_any_kind", nn.Parameter(torch.zeros(1)))
    with pytest.raises(DataError, match=message):
        fit(net, points(), RECIPE)


def test_a_batch_of_one_over_which_nothing_can_be_normalized() -> None:
    data = points()
    net = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
    with pytest.raises(
        DataError, match=r"the last batch of an epoch, which has one sample.*choose a batch_size other than"
    ):
        fit(net, data, replace(RECIPE, batch_size=len(data.train) - 1), device="cpu")


def test_a_model_without_weights() -> None:
    with pytest.raises(UsageError, match="no trainable parameters"):
        fit(nn.Identity(), points(), RECIPE)


@pytest.mark.parametrize(("device", "message"), [("tpu", "choose auto, cpu"), ("cuda:99", "not available here")])
def test_devices_that_are_not_there(device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fit(network(), points(), RECIPE, device=device)


# Programs as modules


def test_a_programs_module_trains_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    net, data = resnet(8, width=4, in_channels=1), digits()
    module = capture(net, (data.train.x[:2],)).module()
    recipe = Recipe(epochs=2, batch_size=512)
    run, before = fit(module, data, recipe, device="cpu"), copy.deepcopy(module.state_dict())
    own = fit(net, data, recipe, device="cpu").model.state_dict()
    for name, tensor in run.model.state_dict().items():
        if not name.endswith("num_batches_tracked"):  # which nothing reads, and the graph of inference does not count
            torch.testing.assert_close(tensor, own[name])
            assert not torch.equal(tensor, before[name])

    def stop(_: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(module, data, recipe, tmp_path, on_epoch=stop, device="cpu")
    assert same_run(run, fit(module, data, recipe, tmp_path, device="cpu"))


# What is shown on the way


def shown(folder: Path | None, broken: int | None = None) -> tuple[list[int], Run | None]:
    """The epochs of which weights were shown and still differ by one step or more, until one that breaks off."""
    seen: list[int] = []
    weights: list[bytes] = []

    def visit(epoch: int, model: nn.Module) -> None:
        torch.rand(3)  # draws here must not change the training
        seen.append(epoch)
        weights.append(safetensors.torch.save(dict(model.state_dict())))
        if epoch == broken:
            raise KeyboardInterrupt

    try:
        run = fit(network(), points(), RECIPE, folder, visit=visit)
    except KeyboardInterrupt:
        return seen, None
    assert len(set(weights)) == len(weights)
    assert weights[-1] == safetensors.torch.save(dict(run.model.state_dict()))
    return seen, run


def test_a_visit_sees_every_epoch_and_changes_nothing() -> None:
    seen, run = shown(None)
    assert seen == [0, 1, 2, 3]
    assert run is not None
    assert same_run(run, fit(network(), points(), RECIPE))


@pytest.mark.parametrize("broken", [0, 1, 3])
def test_a_visit_that_broke_off_comes_again(tmp_path: Path, broken: int) -> None:
    seen, _ = shown(tmp_path, broken)
    assert seen == list(range(broken + 1))
    assert shown(tmp_path)[0] == list(range(broken, 4))
    assert shown_nothing(tmp_path)


def shown_nothing(folder: Path) -> bool:
    """A finished run is not shown again."""
    seen: list[int] = []
    fit(network(), points(), RECIPE, folder, visit=lambda epoch, _: seen.append(epoch))
    return not seen
