"""`skiplab edit`: what it prints and writes, and one clear error for each way to go wrong."""

import functools
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import networks
import skiplab
from skiplab import cli, edit
from skiplab.edit.catalog import edit_summaries
from skiplab.errors import DataError, ModelError, SkiplabError, UsageError
from skiplab.loading.resolve import resolve

HERE = str(Path(__file__))


class Droppable(nn.Module):
    """Drop-path, which an inference graph does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.drop = networks.heavy(), DropPath()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.block(x))


class DropPath(nn.Module):
    p = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand(len(x), 1).round() if self.training else x


def blocks() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(networks.Block(), networks.Block(), networks.Block()), torch.randn(2, networks.WIDTH)


def dropped() -> tuple[nn.Module, Tensor]:
    return Droppable(), torch.randn(2, networks.WIDTH)


def recurrent() -> tuple[nn.Module, Tensor]:
    return nn.LSTM(networks.WIDTH, networks.WIDTH, batch_first=True), torch.randn(2, 3, networks.WIDTH)


def plain() -> tuple[nn.Module, Tensor]:
    return networks.heavy(), torch.randn(2, networks.WIDTH)


def images() -> tuple[nn.Module, Tensor]:
    """Convolutions and batch norms on the digits' form, without a shortcut."""
    torch.manual_seed(0)
    convs = [nn.Conv2d(1 if i == 0 else 4, 4, 3, padding=1) for i in range(4)]
    layers = [layer for conv in convs for layer in (conv, nn.BatchNorm2d(4), nn.ReLU())]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10)), torch.randn(2, 1, 8, 8)


def joined() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return networks.UNet(), torch.randn(2, 4, 8, 8)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["edit", *arguments], catch_exceptions=False)


def as_json(*arguments: str) -> dict[str, Any]:
    return json.loads(run(*arguments, "--json").stdout)


EDITS: dict[str, tuple[list[str], Callable[..., Any]]] = {
    "remove-shortcut": ([], edit.remove_shortcut),
    "remove-branch": (["--skips", "1"], edit.remove_branch),
    "scale": (["--shortcut", "0.5", "--learn", "vector"], functools.partial(edit.scale, shortcut=0.5, learn="vector")),
    "rezero": ([], edit.rezero),
    "skip-init": ([], edit.rezero),
    "layer-scale": (["--start", "0.25"], functools.partial(edit.layer_scale, start=0.25)),
    "average": ([], edit.average),
    "drop-path": (["--p", "0.4", "--no-linear"], functools.partial(edit.drop_path, p=0.4, linear=False)),
    "gate": (
        ["--bias", "-2", "--form", "shortcut-only"],
        functools.partial(edit.gate, bias=-2.0, form="shortcut-only"),
    ),
    "highway": (["--bias", "-3"], functools.partial(edit.highway, bias=-3.0)),
    "reorder": (["--order", "2,0,1"], functools.partial(edit.reorder, order=[2, 0, 1])),
}


# In tests of their own.
OTHERS = {"insert", "fold", "recalibrate", "concat-to-add", "add-to-concat", "to-pre-activation"}


def test_every_edit_is_tried() -> None:
    names = {name.replace("_", "-") for name in edit_summaries()}
    assert names - EDITS.keys() == OTHERS


@pytest.mark.parametrize("name", EDITS)
def test_each_edit_writes_what_its_function_makes(name: str, tmp_path: Path) -> None:
    options, function = EDITS[name]
    found = as_json(name, f"{HERE}:blocks", *options, "--out", str(tmp_path))
    model, x = blocks()
    program = skiplab.capture(model, (x,))
    skips = skiplab.find(program)
    wanted = function(program, skips.at("1") if "--skips" in options else skips).module()
    saved = resolve(f"{tmp_path}/network.py:network").model
    other = torch.randn(5, networks.WIDTH)
    assert torch.equal(saved(other), wanted(other))
    assert {*saved.state_dict()} == {*wanted.state_dict()}
    largest = (wanted(x) - model.eval()(x)).abs().max().item()
    assert found["difference"] == pytest.approx(largest, rel=1e-5, abs=1e-7)
    assert {*found["removed"]} == {*model.state_dict()} - {*wanted.state_dict()}
    assert {*found["added"]} == {*wanted.state_dict()} - {*model.state_dict()}
    assert found["parameters"] == [sum(w.numel() for w in each.parameters()) for each in (model, wanted)]
    assert found["skips"]["add/identity"][0] == 3
    assert [each["file"] for each in found["files"]] == ["example.safetensors", "network.safetensors", "network.py"]
    assert found["schema"] == "skiplab.edit/1"


def saved_by(tmp_path: Path, *arguments: str) -> tuple[nn.Module, dict[str, Any]]:
    found = as_json(*arguments, "--out", str(tmp_path))
    return resolve(f"{tmp_path}/network.py:network").model.eval(), found


def test_shortcuts_are_inserted_where_they_are_proposed(tmp_path: Path) -> None:
    model, x = images()
    program = skiplab.capture(model, (x,))
    wanted = edit.insert(program, edit.places(program, 1, "pre"), "B", scale=0.5, seed=0).module()
    options = ("--every", "1", "--placement", "pre", "--shortcut", "B", "--scale", "0.5")
    saved, found = saved_by(tmp_path, "insert", f"{HERE}:images", *options)
    assert torch.equal(saved(x), wanted(x))
    assert found["skips"]["add/resample"] == [0, 3]
    lines = run("insert", f"{HERE}:images", "--every", "1").stdout.splitlines()
    assert lines[0] == f"insert of 3 shortcuts into {HERE}:images"
    assert lines[1] == "  Sequential: from 2 (relu) 4x8x8 to 4 (batch_norm) 4x8x8"


def test_one_shortcut_from_a_place_to_another(tmp_path: Path) -> None:
    model, x = images()
    saved, _ = saved_by(tmp_path, "insert", f"{HERE}:images", "--from", "2", "--to", "10")
    model.eval()
    with torch.no_grad():
        layers = list(model.children())
        first = nn.Sequential(*layers[:3])(x)
        last = nn.Sequential(*layers[3:11])(first)
        torch.testing.assert_close(saved(x), nn.Sequential(*layers[11:])(last + first))


def test_edits_without_skips(tmp_path: Path) -> None:
    model, x = images()
    saved, found = saved_by(tmp_path / "fold", "fold", f"{HERE}:images")
    assert not any("running" in name for name in saved.state_dict())
    torch.testing.assert_close(saved(x), model.eval()(x))
    assert found["edited"] == []
    saved, _ = saved_by(tmp_path / "data", "recalibrate", f"{HERE}:images", "--data", "digits")
    assert not torch.equal(saved.state_dict()["1.running_var"], model.state_dict()["1.running_var"])


def test_edits_of_joins_and_of_activations(tmp_path: Path) -> None:
    found = as_json("concat-to-add", f"{HERE}:joined")
    assert found["skips"] == {"concat/identity": [2, 0], "add/projection": [0, 2]}
    assert found["difference"] == 0
    found = as_json("to-pre-activation", "resnet20", "--no-norm")
    assert not any("pre_norm" in name for name in found["added"])
    assert any("pre_norm" in name for name in as_json("to-pre-activation", "resnet20")["added"])


def test_what_is_printed(tmp_path: Path) -> None:
    lines = run("rezero", "resnet20", "--out", str(tmp_path)).stdout.splitlines()
    assert lines[0] == "rezero at 9 of 9 skips of resnet20"
    rows = [line.split() for line in lines[1:6]]
    assert rows == [
        ["before", "after"],
        ["skips", "9", "9"],
        ["add/identity", "7", "7"],
        ["add/resample", "2", "2"],
        ["parameters", "269,722", "269,731"],
    ]
    assert lines[6].startswith("added: layer1.0.branch_scale, ")
    assert lines[6].endswith(", … (9 in all)")
    assert lines[7].startswith("output on the example: changes by up to ")
    assert lines[8].startswith("note: 19 batch norms keep their running statistics")
    assert lines[9] == f"wrote to {tmp_path}:"
    assert lines[-1].split()[0] == "network.py"
    assert lines[-1].endswith("difference 0")


def test_the_same_function_and_nothing_written(tmp_path: Path) -> None:
    result = run("drop-path", f"{HERE}:blocks", "--p", "0.5")
    assert "output on the example: the same\n" in result.stdout
    assert "nothing was written: --out FOLDER saves the network" in result.stderr
    assert "the same but for rounding" in run("scale", f"{HERE}:blocks", "--branch", "1.00001").stdout


def test_notes() -> None:
    lost = "note: 1 module that acts only in training will be missing when it trains: drop\n"
    assert lost in run("rezero", f"{HERE}:dropped").stdout
    stay = "note: projections stay on the shortcuts, since what follows expects their shape: layer2.0, layer3.0\n"
    assert stay in run("remove-branch", "resnet20", "--kwargs", '{"skip": "B"}').stdout


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (["skale", "resnet20"], UsageError, "there is no edit `skale`: choose one of add-to-concat, average, "),
        (["reorder", "resnet20", "--order", "a,b"], UsageError, "--order a,b: write comma-separated whole numbers"),
        (["rezero", "resnet20", "--skips", "no*"], UsageError, "--skips no* selects none of 9 skips (layer1.0, "),
        (["rezero", "resnet20", "--formats", "pt2"], UsageError, "give --out FOLDER"),
        (["rezero", "resnet20", "--formats", "pt3", "--out", "OUT"], UsageError, "choose some of python, pt2, onnx"),
        (["rezero", "resnet20", "--meta"], UsageError, "leave out --meta"),
        (["insert", "resnet20", "--from", "layer1.0"], UsageError, "--from and --to are given together"),
        (["insert", f"{HERE}:images", "--from", "9", "--to", "1"], UsageError, "no path leads from `9` to `1`"),
        (["insert", f"{HERE}:images", "--from", "14", "--to", "1"], UsageError, "no op and no module `14`"),
        (["insert", f"{HERE}:images", "--every", "9"], UsageError, "needs 11"),
        (["recalibrate", f"{HERE}:images", "--data", "nowhere"], DataError, "--data nowhere"),
        (["rezero", "resnet20", "--device", "tpu"], UsageError, "device='tpu': choose auto, cpu, cuda"),
        (["rezero", "missing.py:net"], ModelError, "there is no file missing.py"),
        (["rezero", f"{HERE}:recurrent"], UsageError, "is inside the operator `lstm`"),
        (["rezero", f"{HERE}:plain"], UsageError, "the network has no skips"),
        (["reorder", f"{HERE}:blocks", "--order", "0,0,1"], UsageError, "give each of the numbers 0 … 2"),
    ],
)
def test_one_clear_error(arguments: list[str], kind: type[SkiplabError], words: str, tmp_path: Path) -> None:
    with pytest.raises(kind) as raised:
        run(*[str(tmp_path) if each == "OUT" else each for each in arguments])
    assert words in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rezero", "resnet20", "--p", "0.1"], "No such option: --p"),
        (["scale", "resnet20", "--no-linear"], "No such option: --no-linear"),
        (["insert", "resnet20", "--skips", "layer1.0"], "No such option: --skips"),
        (["drop-path", "resnet20"], "Missing option '--p'"),
        (["recalibrate", "resnet20"], "Missing option '--data'"),
        (["gate", "resnet20", "--form", "open"], "'open' is not one of 'exclusive', 'shortcut-only'"),
        (["rezero"], "Missing argument 'MODEL'"),
    ],
)
def test_options_that_do_not_fit_the_edit(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.replace("│", " ").split())


def test_options_are_in_the_json_as_they_were_given() -> None:
    found = as_json("drop-path", f"{HERE}:blocks", "--p", "0.5", "--skips", "1")
    assert (found["edit"], found["options"], found["edited"]) == ("drop-path", {"p": 0.5}, ["1"])
    found = as_json("reorder", f"{HERE}:blocks", "--order", "1,0,2")
    assert found["options"] == {"order": [1, 0, 2]}


def test_files_before_a_format_that_fails_are_in_place(tmp_path: Path) -> None:
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("pip install 'skiplab[onnx]'")
    with pytest.raises(SkiplabError, match="capture the network without train"):
        run("rezero", f"{HERE}:blocks", "--train", "--out", str(tmp_path), "--formats", "python,onnx")
    assert list(tmp_path.iterdir()) == []
    run("rezero", f"{HERE}:blocks", "--train", "--out", str(tmp_path), "--formats", "python, pt2")
    assert (tmp_path / "network.pt2").is_file()
