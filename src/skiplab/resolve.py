"""From what a user types for MODEL to a model with example inputs.

A MODEL is one of ours (`resnet50`), `package.module:callable`, `file.py:callable`, `timm:NAME`,
`torchvision:NAME`, `transformers:CONFIG_OR_TYPE`, or a `.pt2` file. Inputs are those that the user gives, else
those that the callable returns, else those that the model's own library declares.
"""

import contextlib
import difflib
import importlib
import importlib.util
import io
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from skiplab.errors import DataError, ModelError, UsageError

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
FORMS = (
    "a name of ours (resnet50), package.module:callable, file.py:callable, timm:NAME, torchvision:NAME, "
    "transformers:TYPE_OR_PATH or file.pt2"
)


@dataclass(frozen=True)
class Resolved:
    """A model, or an exported program in its place, with the inputs to run it on.

    Attributes:
        name: as the user wrote it.
        model: the module.
        args, kwargs: arguments of `forward`.
    """

    name: str
    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


def resolve(
    spec: str,
    inputs: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    weights: Path | None = None,
    trust: bool = False,
) -> Resolved:
    """Builds the model that `spec` names.

    Args:
        spec: one of the forms above.
        inputs: shapes such as "1x3x224x224" or "1x16:int64", one for each positional argument of `forward`.
        options: keyword arguments for the callable that builds the model.
        weights: a safetensors file or a pickled state dict, loaded strictly.
        trust: allow reading a `.pt2` file, which can run code of whoever made it.
    """
    with _quiet():
        model, declared = _build(spec, dict(options or {}), trust)
    if weights is not None:
        load_weights(model, weights)
    given = tuple(_example(text) for text in inputs)
    args, kwargs = (given, {}) if given else declared()
    return Resolved(spec, model, args, kwargs)


def _build(spec: str, options: dict[str, Any], trust: bool) -> tuple[nn.Module, Callable[[], Inputs]]:
    scheme, colon, rest = spec.rpartition(":")
    if spec.startswith("timm:"):
        return _timm(spec.removeprefix("timm:"), options)
    if spec.startswith("torchvision:"):
        return _torchvision(spec.removeprefix("torchvision:"), options)
    if spec.startswith("transformers:"):
        return _transformers(spec.removeprefix("transformers:"), options)
    if spec.endswith(".pt2"):
        return _exported(Path(spec), trust)
    if not colon:
        return _ours(spec, options)
    owner = _from_file(Path(scheme)) if scheme.endswith(".py") else _from_package(scheme)
    return _called(spec, owner, rest, options)


def _ours(name: str, options: dict[str, Any]) -> tuple[nn.Module, Callable[[], Inputs]]:
    from skiplab import models

    builders = [each for each in models.__all__ if each[0].islower() and callable(getattr(models, each))]
    if name not in builders:
        raise ModelError(f"there is no model `{name}`{_nearest(name, builders)}; MODEL is {FORMS}")
    model = _call(name, getattr(models, name), options)
    return model, lambda: ((torch.randn(1, *_shape_of(model, name), generator=_generator()),), {})


def _shape_of(model: nn.Module, name: str) -> tuple[int, ...]:
    shape = getattr(model, "example_input_shape", None)
    if not isinstance(shape, tuple):
        raise UsageError(f"{name} does not declare its input: give --input, such as --input 1x3x224x224")
    return shape


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelError(f"there is no file {path}: check the path (it is taken from {Path.cwd()})")
    name = f"skiplab_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent.resolve()))  # so that the file can import its neighbours
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ModelError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module


def _from_package(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        hint = f"; for a file write {name}.py:CALLABLE" if Path(f"{name}.py").is_file() else ""
        raise ModelError(f"there is no module `{error.name}`{hint}; MODEL is {FORMS}") from error
    except Exception as error:
        raise ModelError(f"module `{name}` cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(Path.cwd()))


def _called(
    spec: str, owner: ModuleType, name: str, options: dict[str, Any]
) -> tuple[nn.Module, Callable[[], Inputs]]:
    if not hasattr(owner, name):
        public = [each for each in vars(owner) if not each.startswith("_") and callable(getattr(owner, each))]
        raise ModelError(f"{spec}: there is no `{name}` there{_nearest(name, public)}")
    found = getattr(owner, name)
    made = found if isinstance(found, nn.Module) else _call(spec, found, options)
    if isinstance(made, nn.Module):
        return made, lambda: _undeclared(spec, made)
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return made[0], lambda: _as_inputs(made[1])
    raise ModelError(f"{spec} returns {type(made).__name__}: it should return a model or (model, example inputs)")


def _call(spec: str, build: Any, options: dict[str, Any]) -> Any:
    if not callable(build):
        raise ModelError(f"{spec} is {type(build).__name__}: it should be a function, a class or a module")
    try:
        return build(**options)
    except TypeError as error:
        raise ModelError(f"{spec} cannot be called with --kwargs {options}: {error}") from error
    except (ModelError, UsageError):
        raise
    except Exception as error:
        raise ModelError(f"{spec} fails while it builds the model: {type(error).__name__}: {error}") from error


def _undeclared(spec: str, model: nn.Module) -> Inputs:
    shape = getattr(model, "example_input_shape", None)
    if isinstance(shape, tuple):
        return (torch.randn(1, *shape, generator=_generator()),), {}
    raise UsageError(
        f"{spec} does not say what it takes: give --input (such as --input 1x3x224x224, or 1x16:int64 for token "
        "ids), or let the callable return (model, example inputs)"
    )


def _as_inputs(inputs: Any) -> Inputs:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _timm(name: str, options: dict[str, Any]) -> tuple[nn.Module, Callable[[], Inputs]]:
    timm = _library("timm")
    if not timm.is_model(name):
        raise ModelError(f"timm has no model `{name}`{_nearest(name, timm.list_models())}")
    model = _call(f"timm:{name}", lambda **kw: timm.create_model(name, pretrained=False, **kw), options)
    size = tuple(getattr(model, "default_cfg", {}).get("input_size", (3, 224, 224)))
    return model, lambda: ((torch.randn(1, *size, generator=_generator()),), {})


def _torchvision(name: str, options: dict[str, Any]) -> tuple[nn.Module, Callable[[], Inputs]]:
    models = _library("torchvision.models")
    if name not in models.list_models():
        raise ModelError(f"torchvision has no model `{name}`{_nearest(name, models.list_models())}")
    options = {"weights": None, **options}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False, **options}  # their default takes a minute and warns
    model = _call(f"torchvision:{name}", lambda **kw: models.get_model(name, **kw), options)
    return model, lambda: ((torch.randn(1, 3, 224, 224, generator=_generator()),), {})


def _transformers(name: str, options: dict[str, Any]) -> tuple[nn.Module, Callable[[], Inputs]]:
    """A model with random weights, from a folder or file with a configuration or from a model type alone."""
    library = _library("transformers")
    try:
        if Path(name).exists():
            config = library.AutoConfig.from_pretrained(name, **options)
        else:
            config = library.AutoConfig.for_model(name, **options)
    except (ValueError, KeyError, OSError) as error:
        known = list(library.models.auto.configuration_auto.CONFIG_MAPPING_NAMES)
        raise ModelError(
            f"transformers:{name} is neither a path with a config.json nor a model type{_nearest(name, known)}"
        ) from error
    if hasattr(config, "use_cache"):
        config.use_cache = False  # a cache is an output of its own, and no part of the signal's way
    model = _call(f"transformers:{name}", lambda: library.AutoModel.from_config(config), {})
    return model, lambda: _dummy(model, config)


def _dummy(model: Any, config: Any) -> Inputs:
    """What `transformers` itself feeds a model to try it."""
    if model.main_input_name == "pixel_values":
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", 224)
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        channels = getattr(vision, "num_channels", 3)
        return (), {"pixel_values": torch.randn(1, channels, height, width, generator=_generator())}
    if model.main_input_name == "input_features":
        frames = 2 * getattr(config, "max_source_positions", 1500)
        features = torch.randn(1, config.num_mel_bins, frames, generator=_generator())
        return (), {"input_features": features, "decoder_input_ids": torch.ones(1, 8, dtype=torch.long)}
    ids = torch.randint(3, min(100, _vocabulary(config)), (1, 16), generator=_generator())
    inputs = {model.main_input_name: ids}
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids
    return (), inputs


def _vocabulary(config: Any) -> int:
    text = getattr(config, "text_config", config)
    return max(8, getattr(text, "vocab_size", 100))


def _exported(path: Path, trust: bool) -> tuple[nn.Module, Callable[[], Inputs]]:
    if not path.is_file():
        raise ModelError(f"there is no file {path}: check the path (it is taken from {Path.cwd()})")
    if not trust:
        raise UsageError(
            f"reading {path} can run code of whoever made it (torch.export.load unpickles): give --trust if you "
            "trust its maker"
        )
    try:
        exported = torch.export.load(path)
    except Exception as error:
        raise ModelError(
            f"{path} is no exported program that torch {torch.__version__} can read: {error}"
        ) from error
    if exported.example_inputs is None:
        return exported.module(), lambda: _undeclared(str(path), nn.Identity())
    args, kwargs = exported.example_inputs
    return exported.module(), lambda: (tuple(args), dict(kwargs))


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a safetensors file or a pickled state dict (read with `weights_only=True`) strictly."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}: check --weights") from error
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as weights: {error}") from error
    except Exception as error:  # an unpickler meets anything
        raise DataError(
            f"{path} holds more than tensors and is not unpickled, since that could run code: save it as "
            f"safetensors ({str(error).splitlines()[0]})"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path} holds no state dict: save `model.state_dict()`")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise DataError(f"{path} does not fit the model: {' '.join(lines)[:300]}") from error


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is not installed: pip install {error.name}") from error
    except Exception as error:  # torchvision's operators, compiled for another torch, are missing
        raise ModelError(f"{name} does not work with the installed torch {torch.__version__}: {error}") from error


def parse_shape(text: str) -> tuple[tuple[int, ...], torch.dtype]:
    """ "1x16:int64" as a shape and a dtype; float32 when none is named."""
    sizes, _, kind = text.partition(":")
    dtype = getattr(torch, kind or "float32", None)
    try:
        shape = tuple(int(size) for size in sizes.split("x"))
    except ValueError:
        shape = ()
    if not shape or any(size < 1 for size in shape) or not isinstance(dtype, torch.dtype):
        raise UsageError(f"--input {text}: write sizes as 1x3x224x224, with a dtype as 1x16:int64 where needed")
    return shape, dtype


def _example(text: str) -> Tensor:
    shape, dtype = parse_shape(text)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=_generator()).to(dtype)
    # Small numbers are valid token ids and class labels of nearly every network.
    return torch.randint(0, 2, shape, generator=_generator()).to(dtype)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


@contextlib.contextmanager
def _quiet() -> Any:
    """Libraries greet on stdout, which is for data."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
