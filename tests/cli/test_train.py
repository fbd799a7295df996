"""`skiplab train`: what it says of networks that train, do not, and diverge, and how it goes on."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn
from typer.testing import CliRunner, Result

from skiplab import cli
from skiplab.data import digits
from skiplab.errors import DataError, SkiplabError, UsageError
from skiplab.report import png, run_curves
from skiplab.training import summary
from skiplab.training.fit import fit
from skiplab.training.recipe import Recipe
from skiplab.training.seeds import Trial

NET = """
import time
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=10, gain=1.0, factor=1.0, sleep=0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))
        self.gain, self.factor, self.sleep = gain, factor, sleep

    def forward(self, x):
        time.sleep(self.sleep)
        return self.gain * self.body(self.factor * x)


def line():
    return nn.Linear(3, 2)


def values():
    from skiplab.data import DataSet, Split

    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    y = x @ torch.ones(3, 2)
    return DataSet("values", Split(x[:20], y[:20]), Split(x[20:], y[20:]), None)


def pool():
    layers = nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    return nn.Sequential(*layers), torch.ones(1, 3, 8, 8)
"""
QUICK = ("--data", "digits", "--device", "cpu", "--epochs", "2", "--batch-size", "256")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path / "net.py"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["train", *map(str, arguments)], catch_exceptions=False)


def found(*arguments: object) -> dict:
    return json.loads(invoke(*arguments, "--json").stdout)


def test_json_holds_what_the_library_trains(net: Path) -> None:
    result = found(f"{net}:Net", *QUICK, "--seeds", "0,3")
    assert result["schema"] == "skiplab.train/2"
    assert (result["recipe"]["epochs"], result["recipe"]["momentum"]) == (2, Recipe.momentum)
    assert result["data"]["chance"]["train"] == pytest.approx(1 - 146 / 1437)
    for seed, row in zip((0, 3), result["runs"], strict=True):
        torch.manual_seed(seed)
        from skiplab.loading.resolve import resolve

        model = resolve(f"{net}:Net", ("1",)).model
        history = fit(model, digits(), Recipe(epochs=2, batch_size=256, seed=seed), device="cpu").history
        assert row.items() >= {"seed": seed, "status": "finished", "epochs": 2}.items()
        for name in ("train_loss", "train_error", "test_loss", "test_error"):
            assert row[name] == pytest.approx(history[name].iloc[-1])
    assert [(row["seed"], row["epoch"]) for row in result["curves"]] == [(0, 1), (0, 2), (3, 1), (3, 2)]
    errors = [row["test_error"] for row in result["runs"]]
    expected = stats.ttest_1samp(errors, 0).confidence_interval(0.95)
    assert result["summary"]["test_error"]["mean"] == pytest.approx(np.mean(errors))
    assert result["summary"]["test_error"]["low"] == pytest.approx(expected.low)


def test_every_part_of_the_recipe_has_its_option(net: Path) -> None:
    options = "--optimizer adamw --clip-grad 0.5 --augment crop-flip --crop-padding 2 --precision fast".split()
    asked = {"optimizer": "adamw", "clip": 0.5, "augment": "crop-flip", "padding": 2, "precision": "fast"}
    result = found(f"{net}:Net", *QUICK, *options, "--lr", "0.003", "--eval-samples", "100")
    assert result["recipe"].items() >= {**asked, "eval_samples": 100}.items()
    torch.manual_seed(0)
    from skiplab.loading.resolve import resolve

    recipe = Recipe(epochs=2, batch_size=256, learning_rate=0.003, eval_samples=100, **asked)
    history = fit(resolve(f"{net}:Net", ("1",)).model, digits(), recipe, device="cpu").history
    assert result["runs"][0]["test_loss"] == pytest.approx(history["test_loss"].iloc[-1])


def test_values_are_told_as_shares_of_their_variance(net: Path, tmp_path: Path) -> None:
    options = "--device cpu --epochs 30 --batch-size 8 --seeds 0,1".split()
    result = invoke(f"{net}:line", "--data", f"{net}:values", *options, "--report", tmp_path / "page.html")
    assert result.exit_code == 0, result.stderr
    assert "line trains: training error is 0." in result.stdout
    assert "chance is 100.0 %" in result.stdout
    assert "– An error is the unexplained share of the targets' variance" in result.stdout


def test_a_table_and_what_it_says(net: Path, tmp_path: Path) -> None:
    result = invoke(f"{net}:Net", *QUICK, "--epochs", "6", "--seeds", "0,1", "--report", tmp_path / "page.html")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].endswith("on digits: 1,437 training samples, 360 test samples")
    assert [line.split()[0] for line in lines[1:5]] == ["seed", "0", "1", "mean"]
    assert lines[1].split("  ")[-1].strip() == "seconds"
    assert "trains: training error is" in lines[5]
    assert "chance is 89.8 %." in lines[5]
    assert "over 2 runs); chance is 89.7 %." in lines[6]
    assert "seed 0: training error" in result.stderr
    assert "trains: training error" in (tmp_path / "page.html").read_text()


def test_a_run_that_diverges_is_a_result_and_the_others_go_on(net: Path, tmp_path: Path) -> None:
    arguments = (f"{net}:Net", *QUICK, "--kwargs", '{"gain": 1e18}', "--seeds", "0,1", "--out", tmp_path / "out")
    for _ in range(2):  # the second time from the folder
        result = invoke(*arguments)
        assert result.exit_code == 1
        assert result.stdout.count(", diverged") == 2
        assert "– Seed 1 diverges: the loss is not finite at epoch 1, step" in result.stdout
        assert "trains" not in result.stdout
    result = found(*arguments, "--report", tmp_path / "page.html")
    assert [row["status"] for row in result["runs"]] == ["diverged"] * 2
    assert [row["train_error"] for row in result["runs"]] == [None, None]
    assert result["summary"]["test_error"] == {"mean": None, "low": None, "high": None, "runs": 0}
    assert "Seed 0 diverges" in (tmp_path / "page.html").read_text()


def test_what_is_finished_is_not_trained_again_and_more_seeds_may_follow(net: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = found(f"{net}:Net", *QUICK, "--out", out)
    times = {path: path.stat().st_mtime_ns for path in (out / "seed-0").iterdir()}
    both = found(f"{net}:Net", *QUICK, "--out", out, "--seeds", "0,1")
    assert both["runs"][0] == first["runs"][0]
    assert {path: path.stat().st_mtime_ns for path in (out / "seed-0").iterdir()} == times
    with pytest.raises(DataError, match=r"holds other results: recipe.momentum was 0.9, now 0.5; .*--fresh"):
        invoke(f"{net}:Net", *QUICK, "--out", out, "--momentum", "0.5")
    with pytest.raises(DataError, match=r"holds other results: model\.kwargs\.gain was .*, now 2; .*--fresh"):
        invoke(f"{net}:Net", *QUICK, "--out", out, "--kwargs", '{"gain": 2}')
    fresh = found(f"{net}:Net", *QUICK, "--out", out, "--momentum", "0.5", "--fresh")
    assert fresh["runs"][0]["train_loss"] != first["runs"][0]["train_loss"]
    assert not (out / "seed-1" / "run.json").exists()  # which was of the other recipe


def test_the_same_weights_in_another_network_are_another_run(net: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    invoke(f"{net}:Net", *QUICK, "--out", out)
    net.write_text(NET.replace("self.gain * self", "self.gain - self"))
    with pytest.raises(DataError, match=r"seed-0 holds other results: network\.untrained_loss was 2.*, now 2"):
        invoke(f"{net}:Net", *QUICK, "--out", out)
    net.write_text(NET + "\n# a remark\n")
    assert invoke(f"{net}:Net", *QUICK, "--out", out).exit_code == 0


def test_given_weights_are_where_every_seed_starts(net: Path, tmp_path: Path) -> None:
    import safetensors.torch

    state = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).state_dict()
    state = {f"body.{name}": torch.zeros_like(tensor) for name, tensor in state.items()}
    safetensors.torch.save_file(state, tmp_path / "zeros.safetensors")
    small = ("--lr", "1e-12", "--seeds", "0,1", "--weights", tmp_path / "zeros.safetensors")
    losses = [row["train_loss"] for row in found(f"{net}:Net", *QUICK, *small)["runs"]]
    assert losses == pytest.approx([np.log(10)] * 2)


def test_ctrl_c_says_what_is_finished_and_goes_on(net: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = [f"{net}:Net", "--kwargs", '{"sleep": 0.01}', "--data", "digits", "--device", "cpu", "--seeds", "0,1"]
    options += ["--epochs", "15", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "skiplab.cli", "train", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a parallel test run ignores
    )
    until, epoch, record = time.monotonic() + 200, 0, out / "seed-1" / "run.json"
    while epoch < 2 and time.monotonic() < until and process.poll() is None:
        epoch = json.loads(record.read_text())["epoch"] if record.exists() else 0
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "stopped; finished: seed 0: training error" in stderr
    assert f"to resume from {out}, run the same command again" in stderr
    assert json.loads(record.read_text())["status"] == "running"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ("resnet20", *QUICK),
            DataError,
            r"resnet20 does not take the samples of digits \(1x8x8, float32\): .*; build it with --num-classes 10",
        ),
        (
            ("NET:Net", *QUICK, "--kwargs", '{"classes": 5}'),
            DataError,
            r"shape \(5,\), and 10 classes need \(10,\);",
        ),
        (("timm:resnet18", *QUICK), DataError, "--in-channels 1"),
        (("NET:Net", *QUICK, "--seeds", "0,x"), UsageError, "--seeds 0,x: write comma-separated numbers"),
        (("NET:Net", *QUICK, "--seeds", "-1"), UsageError, "seed=-1: give a number from 0"),
        (
            ("NET:line", "--data", "NET:values", "--augment", "crop"),
            DataError,
            r"needs images .*x \(20, 3\), y \(20, 2\)",
        ),
        (("NET:Net", "--data", "NET:values"), DataError, r"does not take the samples of values \(3, float32\)"),
        (("NET:Net", *QUICK, "--fresh"), UsageError, "--fresh removes runs in the folder of --out"),
        (("net.pt2", *QUICK), UsageError, "is an inference graph, which cannot be trained"),
        (("NET:Net", *QUICK, "--device", "quantum"), UsageError, "choose auto, cpu, cuda"),
    ],
)
def test_what_goes_wrong_is_said(
    net: Path, arguments: tuple[str, ...], error: type[SkiplabError], message: str
) -> None:
    with pytest.raises(error, match=message):
        invoke(*(each.replace("NET", str(net)) for each in arguments))


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("--schedule", "'cosine', 'step'"),
        ("--optimizer", "'sgd', 'adamw'"),
        ("--augment", "'none', 'crop', 'crop-flip'"),
        ("--precision", "'32-true', 'bf16-mixed', 'fast'"),
    ],
)
def test_choices(net: Path, option: str, choices: str) -> None:
    result = invoke(f"{net}:Net", *QUICK, option, "half")
    assert result.exit_code == 2
    assert f"'half' is not one of {choices}" in " ".join(result.stderr.replace("│", " ").split())


def test_pictures_take_the_size_of_the_models_example(net: Path, tmp_path: Path) -> None:
    from PIL import Image

    for name, value in (("dark", 20), ("light", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("L", (12, 10), value + number).save(tmp_path / "pictures" / name / f"{number}.png")
    result = invoke(f"{net}:pool", "--data", tmp_path / "pictures", "--epochs", "1", "--json", "--device", "cpu")
    assert json.loads(result.stdout)["data"]["train"] == [8, 3, 8, 8]
    assert "note: " in result.stderr
    assert "has no parts: 2 of 10 samples are held out for the test" in result.stderr


# The sentences and the chart, of runs whose answer is plain.


def trial(seed: int, *errors: float, divergence: str = "") -> Trial:
    rows = [
        {"epoch": i, "train_loss": e, "train_error": e, "test_loss": e, "test_error": e / 2, "seconds": 1.0}
        for i, e in enumerate(errors, start=1)
    ]
    return Trial(seed, pd.DataFrame(rows), divergence)


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        (
            [trial(0, 0.9, 0.004)],
            "net trains: training error is 0.4 % (one run, so no interval); chance is 90",
        ),
        ([trial(0, 0.9, 0.899)], "net does not train: training error stays at 89.9 %"),
        ([trial(0, 0.3, 0.899)], "net does not train: training error ends at 89.9 %"),
        ([trial(0, 0.6)], "net hardly trains: training error ends at 60.0 %"),
        (
            [trial(0, 0.1), trial(1, 0.2)],
            "is 15.0 % on average (95 % interval 0.0 to 78.5 over 2 runs); chance is 90.0 %",
        ),
        (
            [trial(0, 0.1), trial(4, 0.9)],
            "net trains in 1 of 2 runs: by training error, seed 0 trains (10.0 %), seed 4 does not train (90.0 %)",
        ),
        (
            [trial(0, divergence="too fast"), trial(1, 0.1)],
            "Seed 0 diverges: too fast. net trains: training error is 10.0 %",
        ),
        ([trial(0, 0.1)], "Test error: 5.0 % (one run, so no interval); chance is 80.0 %."),
    ],
)
def test_sentences_follow_from_the_errors(trials: list[Trial], said: str) -> None:
    assert said in " ".join(summary.sentences(trials, "net", 0.9, 0.8))


def test_the_chart_is_drawn_of_runs_with_gaps() -> None:
    for trials in ([trial(0, 0.5, 0.0), trial(1, 0.4)], [trial(0, divergence="at once")]):
        assert png(run_curves(summary.curves(trials), 0.9)).startswith(b"\x89PNG")
