"""Saved networks: each format, read back without Skiplab, gives what the original module gives."""

import importlib
import importlib.util
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import skiplab
from networks import Attention, Block
from skiplab import models
from skiplab.errors import OutputError, UsageError
from skiplab.io.weights import load_weights
from skiplab.loading.resolve import resolve
from skiplab.serialization import compare, onnx

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="pip install 'skiplab[onnx]'")
FORMATS = ("python", "pt2", *(["onnx"] if HAS_ONNX else []))


class Odd(nn.Module):
    """Tied weights, buffers that are persistent or not, constants, a frozen parameter, integers in, a dict out."""

    mask: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)
        self.head.weight = self.embed.weight
        self.mix = nn.Linear(6, 6).requires_grad_(False)
        self.register_buffer("shift", torch.randn(6))
        self.register_buffer("mask", torch.randn(6), persistent=False)
        self.constant = torch.randn(6)

    def forward(self, ids: Tensor, factor: float = 1.0) -> dict[str, Any]:
        x = self.embed(ids)
        x = x + torch.tanh(self.mix(x)) * self.mask + self.shift + self.constant + torch.tensor([1.0] * 6)
        return {"logits": self.head(x) * factor, "hidden": (x, [x.sum(-1)])}


class Nested(nn.Module):
    """A recurrent network, dropout, and a dict among the arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.drop = nn.LSTM(8, 8, batch_first=True), nn.Dropout(0.5)

    def forward(self, given: dict[str, Tensor], *, scale: int = 1) -> Tensor:
        x, _ = self.cell(given["x"])
        return given["x"] + self.drop(x) * scale


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Nest(Normed):
    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:  # type: ignore[override]
        return OrderedDict(y=super().forward(x))


class Bessel(nn.Module):
    """An operator that ONNX does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.special.bessel_j0(self.inner(x))


def rows(*sizes: int) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(1))


def ids(count: int) -> Tensor:
    return torch.arange(count * 5).reshape(count, 5) % 10


def read(folder: Path) -> tuple[nn.Module, Any]:
    """As a stranger reads it: by the file alone."""
    spec = importlib.util.spec_from_file_location(f"saved_{abs(hash(folder))}", folder / "network.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.network()


def leaves(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def same(a: Any, b: Any, *, exactly: bool = True) -> bool:
    close = torch.equal if exactly else lambda x, y: torch.allclose(x, y, rtol=1e-4, atol=1e-5)
    return len(leaves(a)) == len(leaves(b)) > 0 and all(map(close, leaves(a), leaves(b)))


CASES = {
    "resnet": (models.resnet20, (rows(1, 3, 16, 16),), {}, (rows(3, 3, 16, 16),)),
    "odd": (Odd, (ids(2), 0.5), {}, (ids(5), 0.5)),
    "odd, by name": (Odd, (ids(1),), {"factor": 2.0}, (ids(3),)),
    "nested": (Nested, ({"x": rows(2, 3, 8)},), {"scale": 3}, ({"x": rows(4, 3, 8)},)),
    "attention": (Attention, (rows(1, 5, 8),), {}, (rows(2, 5, 8),)),
}


@pytest.mark.parametrize("name", CASES)
def test_all_formats_give_what_the_original_gives(name: str, tmp_path: Path) -> None:
    make, args, kwargs, others = CASES[name]
    original = make().eval()
    files = skiplab.save(skiplab.capture(original, args, kwargs), tmp_path, FORMATS)
    assert list(files.columns) == ["format", "file", "bytes", "difference"]
    assert set(files["format"]) == {*FORMATS}
    sizes = dict(zip(files["file"], files["bytes"], strict=True))
    assert sizes == {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert files["difference"].max() < 1e-4

    model, example = read(tmp_path)
    given = ((), example) if isinstance(example, dict) else (example, {})
    assert same(model(*given[0], **given[1]), original(*args, **kwargs))
    assert same(model(*others, **kwargs), original(*others, **kwargs))
    graph = torch.export.load(tmp_path / "network.pt2").module()
    assert same(graph(*others, **kwargs), original(*others, **kwargs), exactly=False)
    if HAS_ONNX:
        session = importlib.import_module("onnxruntime").InferenceSession(str(tmp_path / "network.onnx"))
        feed = {each.name: leaf.numpy() for each, leaf in zip(session.get_inputs(), leaves(others), strict=True)}
        got = [torch.from_numpy(value) for value in session.run(None, feed)]
        assert same(got, original(*others, **kwargs), exactly=False)


def test_every_command_takes_the_file(tmp_path: Path) -> None:
    program = skiplab.capture(Odd().eval(), (ids(2),), {"factor": 2.0})
    skiplab.save(program, tmp_path, ["python"])
    resolved = resolve(f"{tmp_path}/network.py:network")
    again = skiplab.capture(resolved.model, resolved.args, resolved.kwargs)
    assert again.fingerprint == program.fingerprint
    assert again.dynamic_batch
    assert again.difference == 0
    assert {*resolved.model.state_dict()} == {*Odd().state_dict()}


def test_skips_of_the_file_have_the_ids_that_they_had(tmp_path: Path) -> None:
    """Through two saves, and where the flat `forward` has a form of its own around it."""
    for original, x in ((models.resnet20(), rows(2, 3, 8, 8)), (nn.Sequential(Block(), Nest()), rows(2, 8))):
        program = skiplab.capture(original, (x,))
        before = [skip.id for skip in skiplab.find(program)]
        for _ in range(2):
            skiplab.save(program, tmp_path, ["python"])
            model, example = read(tmp_path)
            program = skiplab.capture(model, example)
            assert [skip.id for skip in skiplab.find(program)] == before
            assert [op.module for op in program.ops if op.inputs][-1] == ("fc" if len(before) > 2 else "1")


def test_the_file_needs_no_skiplab(tmp_path: Path) -> None:
    skiplab.save(skiplab.capture(Odd(), (ids(2),)), tmp_path, ["python"])
    code = "import sys, network; m, x = network.network(); m(*x); print('skiplab' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    text = (tmp_path / "network.py").read_text()
    assert '"head.weight": ("parameter", "is", "embed.weight"),' in text
    assert '"mix.weight": ("frozen parameter", "float32", (6, 6)),' in text
    assert '"mask": ("constant", "float32", (6,)),' in text


def test_what_is_read_trains_as_the_original_does(tmp_path: Path) -> None:
    """Dropout draws the same, batch norm learns the same, ties hold, and what is frozen stays."""
    original = Normed()
    skiplab.save(skiplab.capture(original, (rows(4, 8),)), tmp_path, ["python"])
    model, _ = read(tmp_path)
    for each in (model.train(), original.train()):
        torch.manual_seed(0)
        each(rows(6, 8)).square().sum().backward()
    for name, weight in original.named_parameters():
        there, here = model.get_parameter(name).grad, weight.grad
        assert there is not None
        assert here is not None
        assert torch.allclose(there, here), name
    assert torch.equal(model.get_buffer("block.1.running_mean"), original.get_buffer("block.1.running_mean"))
    assert not torch.equal(model.get_buffer("block.1.running_mean"), torch.zeros(8))


def test_ties_and_frozen_parameters_stay_what_they_are(tmp_path: Path) -> None:
    original = Odd()
    skiplab.save(skiplab.capture(original, (ids(2),)), tmp_path, ["python"])
    model, _ = read(tmp_path)
    assert model.get_parameter("head.weight") is model.get_parameter("embed.weight")
    assert not model.get_parameter("mix.weight").requires_grad
    assert {*load_file(tmp_path / "network.safetensors")} == {"embed.weight", "mix.weight", "mix.bias", "shift"}
    other = Odd()
    load_weights(other, tmp_path / "network.safetensors")  # the file has what is tied once
    assert same(other.embed.weight, original.embed.weight)
    assert other.head.weight is other.embed.weight


def test_a_training_graph_is_saved_as_one(tmp_path: Path) -> None:
    original = Normed()
    program = skiplab.capture(original, (rows(4, 8),), train=True)
    files = skiplab.save(program, tmp_path, ["python", "pt2"])
    assert files["difference"].max() == 0
    model, _ = read(tmp_path)
    results = []
    for each in (model.train(), original.train()):
        torch.manual_seed(3)
        results.append(each(rows(5, 8)))
    assert same(*results)
    with pytest.raises(UsageError, match=r"capture the network without train|pip install"):
        skiplab.save(program, tmp_path, ["onnx"])


def test_an_edited_network_is_saved_with_what_was_added(tmp_path: Path) -> None:
    from skiplab.edit import rezero

    program = skiplab.capture(nn.Sequential(Block(), Block()), (rows(2, 8),))
    skiplab.save(rezero(program, skiplab.find(program)), tmp_path, ["python", "pt2"])
    model, (x,) = read(tmp_path)
    assert torch.equal(model(x), x)
    assert "0.branch_scale" in model.state_dict()


def test_forms_of_other_libraries(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    resolved = resolve("transformers:bert", options=small)
    skiplab.save(skiplab.capture(resolved.model, resolved.args, resolved.kwargs), tmp_path, ["python", "pt2"])
    model, example = read(tmp_path)
    tokens = example["input_ids"].repeat(3, 1)
    wanted = resolved.model.eval()(input_ids=tokens)
    assert type(model(tokens)) is type(wanted)
    assert same(model(tokens).last_hidden_state, wanted.last_hidden_state)
    assert torch.export.load(tmp_path / "network.pt2").module()(input_ids=tokens).keys() == wanted.keys()


@needs_onnx
def test_an_operator_that_onnx_has_not(tmp_path: Path) -> None:
    program = skiplab.capture(nn.Sequential(nn.Linear(4, 4), Bessel()), (rows(2, 4),))
    with pytest.raises(OutputError, match=r"`prims\.bessel_j0`, at `1` \(.*test_save\.py:\d+\); leave onnx out"):
        skiplab.save(program, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"network.py", "network.safetensors", "network.pt2"}
    assert not (tmp_path / "network.onnx").exists()


def test_without_the_packages_of_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "_PACKAGES", ("onnx_that_is_missing",))
    with pytest.raises(UsageError, match=r"pip install 'skiplab\[onnx\]'"):
        skiplab.save(skiplab.capture(Block(), (rows(2, 8),)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_file_that_gives_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check reads the file: weights that change on the way to it are noticed, and the old file stays."""
    program = skiplab.capture(Block(), (rows(2, 8),))
    (tmp_path / "network.py").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")

    def spoilt(tensors: dict[str, Tensor], path: Path) -> None:
        save_file({name: tensor + 0.1 for name, tensor in tensors.items()}, path)

    monkeypatch.setattr("safetensors.torch.save_file", spoilt)
    with pytest.raises(OutputError, match=r"network\.py, read back, differs from the network by"):
        skiplab.save(program, tmp_path, ["python"])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"network.py": "old", "notes.txt": "mine"}
    monkeypatch.undo()
    skiplab.save(program, tmp_path, ["python"])
    assert (tmp_path / "network.py").read_text() != "old"
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("formats", [[], ["torchscript"], "python"])
def test_formats_that_there_are_not(formats: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose some of python, pt2, onnx"):
        skiplab.save(skiplab.capture(Block(), (rows(2, 8),)), tmp_path, formats)


def test_without_values_there_is_nothing_to_save(tmp_path: Path) -> None:
    program = skiplab.capture(Block().to("meta"), (rows(2, 8).to("meta"),))
    with pytest.raises(UsageError, match="captured without values"):
        skiplab.save(program, tmp_path, ["python"])


def test_the_other_batch_has_other_samples_and_another_size() -> None:
    program = skiplab.capture(Block(), (rows(1, 8),))
    first, second = compare.answers(program)
    assert [len(each.args[0]) for each in (first, second)] == [1, 3]
    assert not torch.equal(second.args[0][0], second.args[0][1])


def test_distances() -> None:
    inf, nan = torch.inf, torch.nan
    assert compare.largest([torch.tensor([1.0, nan, inf])], [torch.tensor([1.5, nan, inf])]) == 0.5
    assert compare.largest([torch.tensor([nan])], [torch.tensor([1.0])]) == inf
    assert compare.largest([torch.tensor([True, False])], [torch.tensor([True, True])]) == 1
    assert compare.largest([torch.zeros(0)], [torch.zeros(0)]) == 0


def test_every_command_takes_a_pt2(tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = skiplab.capture(nn.Sequential(Block(), nn.BatchNorm1d(8), Block()), (torch.randn(2, 8),))
    skiplab.save(program, tmp_path, ("pt2",))
    resolved = resolve(str(tmp_path / "network.pt2"), trust=True)
    again = skiplab.capture(resolved.model, resolved.args, resolved.kwargs)
    assert [skip.id for skip in skiplab.find(again)] == ["0.branch", "2.branch"]  # the modules that have the weights
    with pytest.raises(UsageError, match="an exported program has no training graph"):
        skiplab.capture(resolved.model, resolved.args, resolved.kwargs, train=True)
