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
from skiplab.cli.edits import VERBS
from skiplab.errors import ModelError, SkiplabError, UsageError
from skiplab.resolve import resolve

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


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["edit", *arguments], catch_exceptions=False)


def told(*arguments: str) -> dict[str, Any]:
    return json.loads(run(*arguments, "--json").stdout)


EDITS: dict[str, tuple[list[str], Callable[..., Any]]] = {
    "remove-shortcut": ([], edit.remove_shortcut),
    "remove-branch": (["--skips", "1"], edit.remove_branch),
    "scale": (["--shortcut", "0.5", "--learn", "vector"], functools.partial(edit.scale, shortcut=0.5, learn="vector")),
    "rezero": ([], edit.rezero),
    "skip-init": ([], edit.rezero),
    "layer-scale": (["--start", "0.25"], functools.partial(edit.layer_scale, start=0.25)),
    "average": ([], edit.average),
    "drop-path": (["--p", "0.4", "--constant"], functools.partial(edit.drop_path, p=0.4, linear=False)),
    "gate": (
        ["--bias", "-2", "--form", "shortcut-only"],
        functools.partial(edit.gate, bias=-2.0, form="shortcut-only"),
    ),
    "highway": (["--bias", "-3"], functools.partial(edit.highway, bias=-3.0)),
    "reorder": (["--order", "2,0,1"], functools.partial(edit.reorder, order=[2, 0, 1])),
}


def test_every_edit_is_tried() -> None:
    assert EDITS.keys() <= VERBS.keys()
    assert all(callable(getattr(edit, name.replace("-", "_"))) for name in VERBS)


@pytest.mark.parametrize("name", EDITS)
def test_each_edit_writes_what_its_function_makes(name: str, tmp_path: Path) -> None:
    options, function = EDITS[name]
    found = told(f"{HERE}:blocks", name, *options, "--out", str(tmp_path))
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


def test_what_is_printed(tmp_path: Path) -> None:
    lines = run("resnet20", "rezero", "--out", str(tmp_path)).stdout.splitlines()
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
    result = run(f"{HERE}:blocks", "drop-path", "--p", "0.5")
    assert "output on the example: the same\n" in result.stdout
    assert "nothing was written: --out FOLDER saves the network" in result.stderr
    assert "the same but for rounding" in run(f"{HERE}:blocks", "scale", "--branch", "1.00001").stdout


def test_notes() -> None:
    lost = "note: 1 module that acts in training alone will be missing when it trains: drop\n"
    assert lost in run(f"{HERE}:dropped", "rezero").stdout
    stay = "note: projections stay on the shortcuts, since what follows expects their shape: layer2.0, layer3.0\n"
    assert stay in run("resnet20", "remove-branch", "--kwargs", '{"skip": "B"}').stdout


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (["resnet20", "skale"], UsageError, "there is no edit `skale`: EDIT is one of remove-shortcut, "),
        (["resnet20", "rezero", "--p", "0.1"], UsageError, "--p is no option of rezero, which takes none"),
        (
            ["resnet20", "scale", "--constant"],
            UsageError,
            "--linear/--constant is no option of scale, which takes --s",
        ),
        (["resnet20", "drop-path"], UsageError, "drop-path needs --p"),
        (["resnet20", "reorder", "--order", "a,b"], UsageError, "--order a,b: write the blocks' numbers with commas"),
        (["resnet20", "rezero", "--skips", "no*"], UsageError, "--skips no*: selects none of 9 skips (layer1.0, "),
        (["resnet20", "rezero", "--formats", "pt2"], UsageError, "give --out FOLDER"),
        (["resnet20", "rezero", "--formats", "pt3", "--out", "OUT"], UsageError, "choose some of python, pt2, onnx"),
        (["resnet20", "rezero", "--meta"], UsageError, "leave out --meta"),
        (["missing.py:net", "rezero"], ModelError, "there is no file missing.py"),
        ([f"{HERE}:recurrent", "rezero"], UsageError, "is a cell state inside the operator `lstm`"),
        ([f"{HERE}:plain", "rezero"], UsageError, "there is none of 0 skips"),
        ([f"{HERE}:blocks", "reorder", "--order", "0,0,1"], UsageError, "give each of the numbers 0 … 2"),
    ],
)
def test_one_clear_error(arguments: list[str], kind: type[SkiplabError], words: str, tmp_path: Path) -> None:
    with pytest.raises(kind) as raised:
        run(*[str(tmp_path) if each == "OUT" else each for each in arguments])
    assert words in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_files_before_a_format_that_fails_are_in_place(tmp_path: Path) -> None:
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("pip install 'skiplab[onnx]'")
    with pytest.raises(SkiplabError, match="capture the network without train"):
        run(f"{HERE}:blocks", "rezero", "--train", "--out", str(tmp_path), "--formats", "python,onnx")
    assert list(tmp_path.iterdir()) == []
    run(f"{HERE}:blocks", "rezero", "--train", "--out", str(tmp_path), "--formats", "python, pt2")
    assert (tmp_path / "network.pt2").is_file()
