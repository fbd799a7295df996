"""Every form of MODEL, and every way to get it wrong."""

import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import skiplab
import zoo
from skiplab.errors import DataError, ModelError, SkiplabError, UsageError
from skiplab.loading import libraries, transformers_inputs
from skiplab.loading.example_inputs import example_tensor, parse_shape
from skiplab.loading.resolve import resolve

ZOO = str(Path(zoo.__file__))


@pytest.mark.parametrize("name", ["with_tensor", "with_tuple", "with_keywords"])
def test_a_callable_may_return_its_inputs(name: str) -> None:
    resolved = resolve(f"{ZOO}:{name}")
    assert resolved.model(*resolved.args, **resolved.kwargs).shape == (3, 2)


@pytest.mark.parametrize("spec", ["bare", "Residual", "instance"])
def test_function_class_and_module_with_a_shape(spec: str) -> None:
    resolved = resolve(f"{ZOO}:{spec}", ["5x4"])
    assert resolved.model(*resolved.args).shape == (5, 2)


def test_a_module_on_the_path_and_options() -> None:
    resolved = resolve("zoo:bare", ["1x4"], {"width": 9})
    assert resolved.model.get_parameter("first.weight").shape == (9, 4)


def test_ours_declare_their_input() -> None:
    assert resolve("resnet20").args[0].shape == (1, 3, 32, 32)
    assert resolve("resnet18", options={"in_channels": 1}).args[0].shape == (1, 1, 224, 224)


def test_ours_are_what_makes_a_model() -> None:
    named = {"resnet": {"depth": 8}, "mlp": {"depth": 4, "in_features": 6}, "resmlp": {"img_size": 32}, "resnet20": {}}
    for name, options in named.items():
        resolved = resolve(name, options=options)
        assert resolved.model(*resolved.args).ndim == 2
    for name in ("concat", "identity", "PadShortcut", "ResNet", "SkipConnection"):
        with pytest.raises(ModelError, match=f"there is no model `{name}`"):
            resolve(name)


def test_libraries_declare_theirs() -> None:
    pytest.importorskip("timm")
    assert resolve("timm:resnet10t").args[0].shape == (1, 3, 176, 176)
    assert resolve("torchvision:squeezenet1_1").args[0].shape == (1, 3, 224, 224)


def test_transformers_from_a_type_and_from_a_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    by_type = resolve("transformers:bert", options=small)
    assert by_type.kwargs["input_ids"].dtype == torch.int64
    transformers.AutoConfig.for_model("bert", **small).save_pretrained(tmp_path)
    by_path = resolve(f"transformers:{tmp_path}")
    assert sum(p.numel() for p in by_path.model.parameters()) == sum(p.numel() for p in by_type.model.parameters())
    assert by_path.model(**by_path.kwargs).last_hidden_state.shape == (1, 16, 8)


SMALL_LLAMA = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.mark.parametrize("spec", ["resnet20", f"{ZOO}:with_tensor", f"{ZOO}:with_keywords", "torchvision:resnet18"])
def test_meta_has_shapes_and_no_values(spec: str) -> None:
    resolved = resolve(spec, meta=True)
    tensors = [*resolved.model.parameters(), *resolved.model.buffers(), *resolved.args, *resolved.kwargs.values()]
    assert resolved.meta
    assert all(tensor.is_meta for tensor in tensors)
    real = resolve(spec)
    assert not real.meta
    found = [skiplab.find(skiplab.capture(each.model, each.args, each.kwargs)) for each in (resolved, real)]
    assert [skip.id for skip in found[0]] == [skip.id for skip in found[1]] != []


def test_an_instance_of_the_user_stays_real() -> None:
    assert resolve(f"{ZOO}:instance", ["5x4"], meta=True).meta
    assert not resolve(f"{ZOO}:instance", ["5x4"]).meta


def test_what_needs_values_says_so_on_meta(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("import torch\ndef net():\n    return torch.nn.Linear(2, int(torch.ones(1).item()))\n")
    with pytest.raises(ModelError, match="leave out --meta"):
        resolve(f"{file}:net", ["1x2"], meta=True)


def test_meta_and_values_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--weights and --meta exclude each other"):
        resolve("zoo:bare", ["1x4"], weights=tmp_path / "w.pt", meta=True)
    with pytest.raises(UsageError, match="contains its weights"):
        resolve("net.pt2", trust=True, meta=True)


def test_a_configuration_too_big_for_the_memory_stays_on_meta(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    real = resolve("transformers:llama", options=SMALL_LLAMA)
    assert not real.meta
    torch.manual_seed(0)  # the look at meta took no random number
    again = transformers.AutoModel.from_config(transformers.AutoConfig.for_model("llama", **SMALL_LLAMA))
    assert all(torch.equal(a, b) for a, b in zip(real.model.parameters(), again.parameters(), strict=True))
    save_file(real.model.state_dict(), tmp_path / "w.safetensors")
    monkeypatch.setattr(libraries, "free_memory", lambda: 2.0 * libraries.weight_bytes(real.model) - 1)
    assert resolve("transformers:llama", options=SMALL_LLAMA).meta
    assert not resolve("transformers:llama", options=SMALL_LLAMA, weights=tmp_path / "w.safetensors").meta


def test_seventy_billion_parameters() -> None:
    pytest.importorskip("transformers")
    sizes = {"hidden_size": 8192, "num_hidden_layers": 2, "num_attention_heads": 64, "num_key_value_heads": 8}
    resolved = resolve(
        "transformers:llama", options={**sizes, "intermediate_size": 28672, "vocab_size": 128256}, meta=True
    )
    program = skiplab.capture(resolved.model, resolved.args, resolved.kwargs)
    assert repr(skiplab.find(program)) == "<4 skips: 4 add/identity>"


def test_free_memory_is_a_number_of_bytes() -> None:
    assert libraries.free_memory() > 2**20


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("t5", {"input_ids", "decoder_input_ids"}),
        ("clip", {"input_ids", "pixel_values", "attention_mask"}),
        ("whisper", {"input_features", "decoder_input_ids"}),
        ("wav2vec2", {"input_values"}),
        ("videomae", {"pixel_values"}),
        ("layoutlm", {"input_ids"}),
        ("patchtst", {"past_values"}),
        ("decision_transformer", {"states", "actions", "rewards", "returns_to_go", "timesteps", "attention_mask"}),
        ("blip_2_qformer", {"query_embeds", "encoder_hidden_states"}),
        ("audio-spectrogram-transformer", {"input_values"}),
    ],
)
def test_inputs_of_transformers_fit_their_forward(family: str, names: set[str]) -> None:
    pytest.importorskip("transformers")
    resolved = resolve(f"transformers:{family}", meta=True)
    assert set(resolved.kwargs) == names
    assert transformers_inputs._progress(resolved.model, resolved.kwargs) == math.inf


def test_inputs_that_no_name_explains() -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UsageError, match=r"no example value is known for inference_session.*give file\.py:function"):
        resolve("transformers:sam2_video", meta=True)


def test_an_exported_program_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    example = torch.randn(2, 4)
    torch.export.save(torch.export.export(zoo.Residual(), (example,)), path)
    with pytest.raises(UsageError, match="--trust"):
        resolve(str(path))
    resolved = resolve(str(path), trust=True)
    assert torch.equal(resolved.args[0], example)


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("nothing.py:net", ModelError, "there is no file nothing.py"),
        (f"{ZOO}:bear", ModelError, r"has no `bear` \(did you mean bare"),
        (f"{ZOO}:raises_while_building", ModelError, "RuntimeError: no such weights"),
        (f"{ZOO}:returns_nothing", ModelError, "returns NoneType: return a model"),
        (f"{ZOO}:number", ModelError, "is a int: give a function"),
        (f"{ZOO}:bare", UsageError, "give --input"),
        ("no_such_package.net:build", ModelError, "there is no module `no_such_package`"),
        ("resnet5", ModelError, "did you mean resnet"),
        ("net.py", ModelError, "write net.py:CALLABLE"),
        ("timm:resnet5", ModelError, "timm has no model"),
        ("torchvision:resnet5", ModelError, "torchvision has no model"),
        ("transformers:brt", ModelError, "did you mean bert"),
        ("missing.pt2", ModelError, "there is no file missing.pt2"),
    ],
)
def test_what_is_not_there(spec: str, error: type[SkiplabError], words: str) -> None:
    with pytest.raises(error, match=words):
        resolve(spec)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ModelError, match="unexpected keyword argument 'depht'"):
        resolve("zoo:bare", ["1x4"], {"depht": 3})
    with pytest.raises(UsageError, match="depth"):
        resolve("resnet", options={"depth": 9})


def test_a_file_that_cannot_be_imported_names_itself(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("import torch\nraise OSError('no')\n")
    with pytest.raises(ModelError, match=r"broken\.py cannot be imported: OSError: no"):
        resolve(f"{file}:net")
    file.write_text("def net(:\n")
    with pytest.raises(ModelError, match="SyntaxError"):
        resolve(f"{file}:net")


def test_stdout_is_kept_for_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "loud.py"
    file.write_text("import torch\nprint('hello')\ndef net():\n    print('again')\n    return torch.nn.Linear(2, 2)\n")
    resolve(f"{file}:net", ["1x2"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["safetensors", "pickle", "checkpoint"])
def test_weights_are_loaded(kind: str, tmp_path: Path) -> None:
    state = zoo.Residual().state_dict()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state if kind == "pickle" else {"state_dict": state, "epoch": 3}, path)
    loaded = resolve("zoo:bare", ["1x4"], weights=path).model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


class Payload:
    """What `weights_only=True` refuses to unpickle."""


def test_weights_that_do_not_fit_or_are_none(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(DataError, match="there is no file"):
        resolve("zoo:bare", ["1x4"], weights=path)
    save_file(zoo.Residual(width=7).state_dict(), path)
    with pytest.raises(DataError, match="does not fit the model"):
        resolve("zoo:bare", ["1x4"], weights=path)
    path.write_bytes(b"no tensors")
    with pytest.raises(DataError, match="cannot be read"):
        resolve("zoo:bare", ["1x4"], weights=path)
    pickled = tmp_path / "w.pt"
    torch.save({"weights": Payload()}, pickled)
    with pytest.raises(DataError, match="holds more than tensors"):
        resolve("zoo:bare", ["1x4"], weights=pickled)
    torch.save([1, 2], pickled)
    with pytest.raises(DataError, match="holds no state dict"):
        resolve("zoo:bare", ["1x4"], weights=pickled)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from(["", "int64", "float64", "bool"]))
def test_shapes_are_read_back(sizes: list[int], dtype: str) -> None:
    text = "x".join(map(str, sizes)) + (f":{dtype}" if dtype else "")
    assert parse_shape(text) == (tuple(sizes), getattr(torch, dtype or "float32"))
    assert example_tensor(text).shape == tuple(sizes)


@pytest.mark.parametrize("text", ["", "1x", "axb", "1x-2", "0x3", "1x2:word", "1x2:nn", "1,2"])
def test_no_shape(text: str) -> None:
    with pytest.raises(UsageError, match="--input"):
        parse_shape(text)


def test_a_module_of_transformers_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers imports a model's module when it is used, and stops at a torchvision built for another torch."""
    transformers = pytest.importorskip("transformers")

    def fail(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("Could not import module 'LlamaConfig'")

    monkeypatch.setattr(transformers.AutoConfig, "for_model", fail)
    with pytest.raises(ModelError, match=r"transformers cannot be imported with torch .*LlamaConfig.*install"):
        resolve("transformers:llama")


def test_a_file_runs_once_until_it_changes(tmp_path: Path) -> None:
    file, runs = tmp_path / "counted.py", tmp_path / "runs"
    text = f"open({str(runs)!r}, 'a').write('x')\nfrom torch import nn\ndef net(): return nn.Linear(4, 2)\n"
    file.write_text(text)
    for _ in range(2):
        resolve(f"{file}:net", ["1x4"])
    assert runs.read_text() == "x"
    file.write_text(text.replace("4, 2", "4, 3"))
    os.utime(file, ns=(0, 1))
    assert resolve(f"{file}:net", ["1x4"]).model.out_features == 3
    assert runs.read_text() == "xx"
