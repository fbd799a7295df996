"""Builds models of other libraries with random weights, and the inputs that these libraries declare.

The argument `meta` of a builder: True builds on the meta device, False in memory, None on meta only if memory is short.
"""

import difflib
import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from skiplab.errors import ModelError, SkiplabError
from skiplab.graph.rng import isolated_rng
from skiplab.loading.example_inputs import InputFactory, Inputs, normal
from skiplab.loading.transformers_inputs import inputs_from_signature, nested_configs

BuiltModel = tuple[nn.Module, InputFactory]


def timm(name: str, options: dict[str, Any], meta: bool | None = False) -> BuiltModel:
    """`timm.create_model`, with an input as in the model's default configuration or in the options."""
    library = import_library("timm")
    if not library.is_model(name):
        raise ModelError(f"timm has no model `{name}`{did_you_mean(name, library.list_models())}")
    model = call_builder(
        f"timm:{name}", lambda **kw: library.create_model(name, pretrained=False, **kw), options, bool(meta)
    )
    channels, *size = getattr(model, "default_cfg", {}).get("input_size", (3, 224, 224))
    if img_size := options.get("img_size"):
        size = [img_size, img_size] if isinstance(img_size, int) else list(img_size)
    return model, lambda: ((normal(1, options.get("in_chans", channels), *size),), {})


def torchvision(name: str, options: dict[str, Any], meta: bool | None = False) -> BuiltModel:
    """`torchvision.models.get_model` without weights, with an image, a video or a pair of images as input."""
    models = import_library("torchvision.models")
    if name not in models.list_models():
        raise ModelError(f"torchvision has no model `{name}`{did_you_mean(name, models.list_models())}")
    defaults: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        defaults["weights_backbone"] = None  # else they are downloaded
    if name in ("googlenet", "inception_v3"):
        defaults["init_weights"] = False  # the default takes a minute and warns
    model = call_builder(
        f"torchvision:{name}", lambda **kw: models.get_model(name, **kw), defaults | options, bool(meta)
    )
    return model, lambda: _image_inputs(models, name)


def _image_inputs(models: Any, name: str) -> Inputs:
    """Inputs of a model of torchvision, by the package that defines it."""
    package = models.get_model_builder(name).__module__
    if ".video." in package:
        weights = next(iter(models.get_model_weights(name)))
        return (normal(1, 3, 16, *weights.transforms.keywords["crop_size"]),), {}
    if ".optical_flow." in package:
        return (normal(1, 3, 128, 128), normal(1, 3, 128, 128)), {}
    if ".detection." in package:
        return ([normal(3, 320, 320)],), {}
    return (normal(1, 3, 224, 224),), {}


def transformers(name: str, options: dict[str, Any], meta: bool | None = False) -> BuiltModel:
    """The model of a configuration file or folder, or of a model type's default configuration."""
    return from_config(f"transformers:{name}", load_config(name, options), meta)


def load_config(name: str, options: dict[str, Any]) -> Any:
    """The configuration in a file or folder, or the default one of a model type, with `options`; raises ModelError."""
    library = import_library("transformers")
    try:
        if Path(name).exists():
            return library.AutoConfig.from_pretrained(name, **options)
        return library.AutoConfig.for_model(name, **options)
    except ImportError as error:  # of the model's module, which transformers imports when it is used
        raise _not_importable("transformers", error) from error
    except (ValueError, KeyError, OSError) as error:
        known = list(library.models.auto.configuration_auto.CONFIG_MAPPING_NAMES)
        raise ModelError(
            f"transformers:{name} is neither a folder with a config.json nor a model type{did_you_mean(name, known)}"
        ) from error


def from_config(name: str, config: Any, meta: bool | None = False) -> BuiltModel:
    """The base model of a transformers configuration, with inputs for its `forward`.

    With `meta=None` it is built on the meta device first, and in memory only if its weights take at most half of the
    free memory.
    """
    library = import_library("transformers")
    for part in nested_configs(config):
        if hasattr(part, "use_cache"):
            part.use_cache = False  # a cache would be a further output
    auto_class = call_builder(name, lambda: _auto_class(library, config), {})

    def build() -> nn.Module:
        return auto_class.from_config(config)

    model = None if meta is False else _on_meta(name, build, required=bool(meta))
    if model is None or not (meta or weight_bytes(model) > free_memory() / 2):
        model = call_builder(name, build, {})
    return model, lambda: inputs_from_signature(name, model, config)


def _auto_class(library: Any, config: Any) -> Any:
    """The auto class for this configuration: `AutoModel`, else the first one for a model with a head."""
    autos = [library.AutoModel, *vars(library.models.auto.modeling_auto).values()]
    known = [
        auto
        for auto in autos
        if isinstance(auto, type) and type(config) in (getattr(auto, "_model_mapping", None) or ())
    ]
    if not known:
        raise ModelError(
            f"transformers has no model for a {type(config).__name__}: give the configuration of the whole model"
        )
    known[0]._model_mapping[type(config)]  # imports the model's code before the device changes
    return known[0]


def _on_meta(name: str, build: Any, required: bool) -> nn.Module | None:
    """The model on the meta device; None if its code needs values, or a ModelError if it is `required`."""
    with isolated_rng():  # so that the seed of the next model is unchanged
        try:
            return call_builder(name, build, {}, meta=True).to("meta")  # `torch.Tensor(n)` ignores the default device
        except ModelError:
            if required:
                raise
            return None


def is_meta(model: nn.Module) -> bool:
    """Whether any parameter is on the meta device."""
    return any(parameter.is_meta for parameter in model.parameters())


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters; shared ones count once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def free_memory() -> float:
    """Available memory in bytes; else the total memory, or infinity if the system reports neither."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        names = getattr(os, "sysconf_names", {})
        if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:
            return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        return float("inf")


def call_builder(name: str, build: Any, options: dict[str, Any], meta: bool = False) -> Any:
    """Calls `build(**options)`, with `meta` on the meta device; every error becomes a ModelError with the name."""
    if not callable(build):
        raise ModelError(f"{name} is a {type(build).__name__}: give a function, a class or a module")
    try:
        if not meta:
            return build(**options)
        with torch.device("meta"):
            return build(**options)
    except SkiplabError:
        raise
    except TypeError as error:
        raise ModelError(
            f"{name} does not take the keyword arguments {options}: {error}; see --kwarg and --kwargs"
        ) from error
    except Exception as error:
        advice = " (the meta device has no values: leave out --meta)" if meta else ""
        raise ModelError(f"{name} fails to build: {type(error).__name__}: {error}{advice}") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The text " (did you mean …?)" with up to three similar names; "" if there are none."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def import_library(name: str) -> Any:
    """Imports a module; raises ModelError if it is not installed or fails to import."""
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is not installed: pip install {error.name}") from error
    except Exception as error:  # such as a torchvision compiled for another torch
        raise _not_importable(package, error) from error


def _not_importable(package: str, error: Exception) -> ModelError:
    return ModelError(
        f"{package} cannot be imported with torch {torch.__version__}: {error}; install the release of {package} "
        "(and of torchvision) for this torch"
    )


class ModelLibrary(NamedTuple):
    """A library whose models are given as LIBRARY:NAME.

    Attributes:
        build: takes the name, keyword arguments and `meta`; returns the model and a function that makes its inputs.
        keywords: the library's names of `num_classes`, `in_channels` and `img_size`, if they differ.
    """

    build: Callable[..., BuiltModel]
    keywords: Mapping[str, str]


LIBRARIES: Mapping[str, ModelLibrary] = {
    "timm": ModelLibrary(timm, {"in_channels": "in_chans"}),
    "torchvision": ModelLibrary(torchvision, {"img_size": "image_size"}),
    "transformers": ModelLibrary(
        transformers, {"num_classes": "num_labels", "in_channels": "num_channels", "img_size": "image_size"}
    ),
}
