"""Anyone's networks, compared: from a file by several processes, and from functions that only this one knows."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from skiplab import cli, study
from skiplab.data import DataSet, Split
from skiplab.errors import DataError, UsageError
from skiplab.graph.capture import capture
from skiplab.models import mlp
from skiplab.study.comparison import _identity, _read_data, _write_data
from skiplab.study.result import Result
from skiplab.training.recipe import Recipe

NETS = """
from torch import nn

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.branch, self.last = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x):
        x = self.first(x.flatten(1))
        return self.last((x + self.branch(x.relu())).relu())

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
"""
RECIPE = Recipe(epochs=2, batch_size=32)


def points() -> DataSet:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(120, 6, generator=generator), torch.arange(120) % 2
    x[:, 0] += 4 * y  # the classes can be told apart
    return DataSet("points", Split(x[:80], y[:80]), Split(x[80:], y[80:]), classes=2)


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))


def test_functions_that_no_other_process_knows(tmp_path: Path) -> None:
    def compare(width: int) -> Result:
        variants = {"narrow": lambda: network(2), "other": lambda: network(width)}
        return study.compare(variants, points(), seeds=2, recipe=RECIPE, store=tmp_path)

    first = compare(8)
    assert first.tables["runs"].groupby("variant", sort=False)["parameters"].first().to_dict() == {
        "narrow": 6 * 2 + 2 + 2 * 2 + 2,
        "other": 6 * 8 + 8 + 8 * 2 + 2,
    }
    assert len(list(tmp_path.glob("*/done.json"))) == 4
    assert compare(8).tables["runs"].equals(first.tables["runs"])  # seconds too: nothing was trained again
    compare(9)  # another network under the same name
    assert len(list(tmp_path.glob("*/done.json"))) == 4 + 2
    assert any(" in narrow, " in sentence and " in other; " in sentence for sentence in first.sentences)
    assert any("differ in their number of parameters" in sentence for sentence in first.sentences)


def test_one_network_has_nothing_to_be_compared_with() -> None:
    with pytest.raises(UsageError, match="1 network: give two or more"):
        study.compare({"a": lambda: network(2)}, points())


class Two(nn.Linear):
    def forward(self, input: torch.Tensor) -> Any:
        return {"features": input, "logits": super().forward(input)}


@pytest.mark.parametrize(
    ("bad", "kind", "why"),
    [
        (lambda: Two(6, 2), DataError, "returns a dict .* wrap it in a module that returns one tensor"),
        (lambda: nn.Linear(6, 2).requires_grad_(False), UsageError, "no trainable parameters"),
    ],
)
def test_a_network_that_cannot_learn_from_the_data_is_named(bad: Any, kind: type[Exception], why: str) -> None:
    with pytest.raises(kind, match=f"^bad: .*{why}"):
        study.compare({"good": lambda: nn.Linear(6, 2), "bad": bad}, points(), recipe=RECIPE)


def test_a_result_says_what_was_compared(tmp_path: Path) -> None:
    data = points()
    values = DataSet("sums", *(Split(s.x, s.x.sum(1, keepdim=True)) for s in (data.train, data.test)), classes=None)

    def narrow() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 1))

    found = study.compare({"a": narrow, "b": lambda: nn.Linear(6, 1)}, values, seeds=2, recipe=RECIPE, store=tmp_path)
    assert found.config["variants"] == ["a", "b"]
    assert found.config["networks"]["a"].endswith("narrow")
    told = {"name": "sums", "train": 80, "test": 40, "classes": None, "fingerprint": values.fingerprint()}
    assert found.config["data"] == told
    assert "unexplained variance of the test part %" in found.overview().columns
    assert found.sentences[0].startswith("Unexplained variance of the test part: ")


@pytest.mark.parametrize(("inputs", "outputs", "why"), [(6, 1, "2 classes need"), (5, 2, "does not take the samples")])
def test_a_network_that_does_not_fit_the_data_is_named_before_any_is_trained(
    inputs: int, outputs: int, why: str, tmp_path: Path
) -> None:
    variants = {"good": lambda: nn.Linear(6, 2), "bad": lambda: nn.Linear(inputs, outputs)}
    with pytest.raises(DataError, match=f"^bad: .*{why}"):
        study.compare(variants, points(), recipe=RECIPE, store=tmp_path)
    assert not list(tmp_path.glob("*/done.json"))


def test_networks_of_a_file_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    command = "study compare nets.py:plain res=nets.py:Residual --data digits --samples 300 --epochs 1 --seeds 2"
    kept = "--runs runs --report page.md"
    done = CliRunner().invoke(cli.app, [*command.split(), *kept.split()], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = {
        line.split()[0]: line.split()
        for line in done.stdout.splitlines()
        if line.startswith(("nets.py:plain ", "res "))
    }
    assert rows["nets.py:plain"][-3:] == [f"{65 * 16 + 17 * 10:,}", "0", "1"]
    assert rows["res"][-3:] == [f"{65 * 16 + 17 * 16 + 17 * 10:,}", "1", "1"]
    page = (tmp_path / "page.md").read_text()
    pictures = re.findall(r"\]\((page/[\w-]+\.svg)\)", page)
    assert len(pictures) >= 4
    assert all((tmp_path / picture).read_text().startswith("<svg") for picture in pictures)
    assert f"command: skiplab {command}\n" in page  # which repeats it, wherever it is kept
    beside = json.loads((tmp_path / "page" / "result.json").read_text())
    assert [row["variant"] for row in beside["tables"]["summary"]] == ["nets.py:plain", "res"]


def test_options_of_networks_and_of_the_training_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [
        *"study compare wide=mlp deep=mlp --data digits --seeds 1 --samples 60 --batch-size 30 --workers 1".split()
    ]
    shared = '{"depth": 4, "width": 8, "in_features": 64, "out_features": 10}'
    command += ["--kwargs", 'deep={"depth": 6}', "--kwargs", shared]
    command += "--epochs 1 --optimizer adamw --clip-grad 0.5 --momentum 0.8 --precision fast --eval-samples 30".split()
    command += "--augment crop --crop-padding 1 --runs runs --report page.html --json".split()
    done = CliRunner().invoke(cli.app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    sizes = {row["variant"]: row["parameters"] for row in found["tables"]["summary"]}
    builds = {"wide": mlp(4, 8, in_features=64, out_features=10), "deep": mlp(6, 8, in_features=64, out_features=10)}
    assert sizes == {name: sum(each.numel() for each in model.parameters()) for name, model in builds.items()}
    said = done.stderr.splitlines()
    assert re.search(r"finished \(1 of 2 runs, about \d:\d\d:\d\d left\)$", said[-4])
    assert said[-3].endswith("finished (2 of 2 runs, collecting their tables)")
    assert said[-2:] == ["writing the page", "wrote page.html"]
    asked = {"optimizer": "adamw", "clip": 0.5, "momentum": 0.8, "precision": "fast", "eval_samples": 30}
    recipes = [json.loads(path.read_text())["recipe"] for path in tmp_path.glob("runs/*/done.json")]
    assert all(recipe.items() >= {**asked, "augment": "crop", "padding": 1, "epochs": 1}.items() for recipe in recipes)


@pytest.mark.parametrize(
    ("kwargs", "why"),
    [
        ('{"depth": 2}', "no network is of Skiplab or of a library"),
        ('c={"depth": 2}', "with NAME one of a, b"),
        ("a={depth}", "not valid JSON"),
    ],
)
def test_options_that_go_to_no_network(kwargs: str, why: str) -> None:
    command = ["study", "compare", "a=nets.py:plain", "b=nets.py:Residual", "--data", "digits", "--kwargs", kwargs]
    assert why in str(CliRunner().invoke(cli.app, command).exception)


@pytest.mark.parametrize("text", ["=resnet20", "a="])
def test_a_name_without_a_network_or_the_reverse(text: str) -> None:
    done = CliRunner().invoke(cli.app, ["study", "compare", text, "resnet20", "--data", "digits"])
    assert f"{text}: write NAME=MODEL" in str(done.exception)


def test_two_networks_of_one_name() -> None:
    done = CliRunner().invoke(cli.app, "study compare a=resnet20 a=resnet32 --data digits".split())
    assert "two networks are called a" in str(done.exception)


class Scaled(nn.Module):
    """Its constant is in no state dict, and how it is judged is not how it learns."""

    def __init__(self, constant: float = 1.0, judged: float = 1.0, frozen: bool = False) -> None:
        super().__init__()
        self.layer, self.judged = nn.Linear(6, 2), judged
        self.register_buffer("constant", torch.full((2,), constant), persistent=False)
        self.layer.bias.requires_grad_(not frozen)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x) * self.constant
        return x if self.training else x * self.judged


@pytest.mark.parametrize("changed", [{"constant": 2.0}, {"judged": 2.0}, {"frozen": True}])
def test_what_no_state_dict_holds_makes_another_run(changed: dict[str, Any]) -> None:
    settings = {"variant": "a", "seed": 0}
    before, again, after = (
        _identity({"a": lambda options=options: Scaled(**options)}, points(), settings) for options in ({}, {}, changed)
    )
    assert before == again != after


class Doubled(nn.Module):
    """One skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x).relu()


class Fixed(Doubled):
    """The same, of a batch size that no capture can leave free."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.tensor([0.0] * len(x))[:, None]


@pytest.mark.parametrize(("tests", "measured"), [(600, 2 * 256), (100, 100)])
def test_a_batch_size_that_is_not_free_is_that_of_every_batch(tests: int, measured: int, tmp_path: Path) -> None:
    """Measured is then what a free network gives on the whole batches alone."""
    x = torch.randn(300 + tests, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] + x[:, 1] > 0).long()

    def lesion(kind: type[Doubled], last: int) -> Any:
        assert capture(kind(), (x[:256],)).dynamic_batch == (kind is Doubled)
        data = DataSet("points", Split(x[:300], y[:300]), Split(x[300:last], y[300:last]), classes=2)
        variants = {"plain": lambda: nn.Linear(6, 2), "residual": lambda: nn.Sequential(kind(), nn.Linear(6, 2))}
        result = study.compare(variants, data, seeds=1, recipe=RECIPE, store=tmp_path / kind.__name__)
        return result.tables["lesion"][["loss_change", "error_change", "loss", "error"]]

    found, expected = lesion(Fixed, 300 + tests), lesion(Doubled, 300 + measured)
    assert len(found) == 1
    assert found.to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-6)


@pytest.mark.parametrize("overlap", ["same", "slice", "targets"])
def test_parts_that_share_memory(overlap: str, tmp_path: Path) -> None:
    whole = points().train
    if overlap == "targets":  # values that are the inputs themselves
        whole = Split(whole.x, whole.x)
    test = whole if overlap == "same" else Split(whole.x[10:40], whole.y[10:40])
    read = _read_data(_write_data(DataSet("d", whole, test, None if overlap == "targets" else 2), tmp_path))
    for got, want in ((read.train, whole), (read.test, test)):
        assert torch.equal(got.x, want.x)
        assert torch.equal(got.y, want.y)


def test_values_that_are_to_be_come_near_to(tmp_path: Path) -> None:
    """Not classes: lesions are judged by what the network was trained for."""
    data = points()
    values = DataSet("v", Split(data.train.x, data.train.x[:, :3]), Split(data.test.x, data.test.x[:, :3]), None)
    variants = {"plain": lambda: nn.Linear(6, 3), "residual": lambda: nn.Sequential(Doubled(), nn.Linear(6, 3))}
    lesion = study.compare(variants, values, seeds=2, recipe=RECIPE, store=tmp_path).tables["lesion"]
    variance = float(values.test.y.var(dim=0, correction=0).mean())
    assert lesion["error_change"].to_numpy() == pytest.approx(lesion["loss_change"].to_numpy() / variance)
    train, test = (Split(part.x.reshape(-1, 2, 3), part.y) for part in (values.train, values.test))
    folded = DataSet("v", train, test, None)
    assert _read_data(_write_data(folded, tmp_path)).train.x.shape == (80, 2, 3)  # the same bytes in another form
