"""Build the models of other libraries, with random weights, and the inputs that these libraries declare.

Where a builder takes `meta`: True builds on the meta device, False builds for real, None lets it decide.
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
    """`timm.create_model`, on the input of the model's default configuration, unless the options have another one."""
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
    """`torchvision.models.get_model` without weights, on an image, a film or a pair of images."""
    models = import_library("torchvision.models")
    if name not in models.list_models():
        raise ModelError(f"torchvision has no model `{name}`{did_you_mean(name, models.list_models())}")
    defaults: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        defaults["weights_backbone"] = None  # they would be downloaded
    if name in ("googlenet", "inception_v3"):
        defaults["init_weights"] = False  # their default takes a minute and warns
    model = call_builder(
        f"torchvision:{name}", lambda **kw: models.get_model(name, **kw), defaults | options, bool(meta)
    )
    return model, lambda: _image_inputs(models, name)


def _image_inputs(models: Any, name: str) -> Inputs:
    """What a model of torchvision takes, by the package in which it is defined."""
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
    """A model of a configuration in a folder or file, or of a model type's default configuration.

    The configuration says everything, so whether the memory suffices is seen on meta first.
    """
    return from_config(f"transformers:{name}", load_config(name, options), meta)


def load_config(name: str, options: dict[str, Any]) -> Any:
    """The configuration in a folder or file, or a model type's own, changed by `options`."""
    library = import_library("transformers")
    try:
        if Path(name).exists():
            return library.AutoConfig.from_pretrained(name, **options)
        return library.AutoConfig.for_model(name, **options)
    except (ValueError, KeyError, OSError) as error:
        known = list(library.models.auto.configuration_auto.CONFIG_MAPPING_NAMES)
        raise ModelError(
            f"transformers:{name} is neither a path with a config.json nor a model type{did_you_mean(name, known)}"
        ) from error


def from_config(name: str, config: Any, meta: bool | None = False) -> BuiltModel:
    """The base model of a transformers configuration, on inputs that fit its `forward`."""
    library = import_library("transformers")
    for part in nested_configs(config):
        if hasattr(part, "use_cache"):
            part.use_cache = False  # a cache is an output of its own, and no part of the signal's way
    auto_class = call_builder(name, lambda: _auto_class(library, config), {})

    def build() -> nn.Module:
        return auto_class.from_config(config)

    model = None if meta is False else _on_meta(name, build, required=bool(meta))
    if model is None or not (meta or weight_bytes(model) > free_memory() / 2):
        model = call_builder(name, build, {})
    return model, lambda: inputs_from_signature(name, model, config)


def _auto_class(library: Any, config: Any) -> Any:
    """The auto class that builds this configuration: the base model's, else the first of those with a head."""
    autos = [library.AutoModel, *vars(library.models.auto.modeling_auto).values()]
    known = [
        auto
        for auto in autos
        if isinstance(auto, type) and type(config) in (getattr(auto, "_model_mapping", None) or ())
    ]
    if not known:
        raise ModelError(f"transformers builds no model from a {type(config).__name__}: it is a part of another one")
    known[0]._model_mapping[type(config)]  # imports the model's code now, and not on another device
    return known[0]


def _on_meta(name: str, build: Any, required: bool) -> nn.Module | None:
    """The model on meta; None where its code needs values, unless it required be there."""
    with isolated_rng():  # what is built afterwards has the weights of its seed
        try:
            return call_builder(name, build, {}, meta=True).to("meta")  # `torch.Tensor(n)` heeds no default device
        except ModelError:
            if required:
                raise
            return None


def is_meta(model: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in model.parameters())


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the parameters, those that are shared once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def free_memory() -> float:
    """Bytes of memory that are available; all there is where the system does not tell, else infinity."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        names = getattr(os, "sysconf_names", {})
        if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:
            return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        return float("inf")


def call_builder(name: str, build: Any, options: dict[str, Any], meta: bool = False) -> Any:
    """Calls what builds a model, on meta if asked for; whatever it raises is a ModelError that names it."""
    if not callable(build):
        raise ModelError(f"{name} is a {type(build).__name__}: it should be a function, a class or a module")
    try:
        if not meta:
            return build(**options)
        with torch.device("meta"):
            return build(**options)
    except SkiplabError:
        raise
    except TypeError as error:
        raise ModelError(f"{name} cannot be called with --kwargs {options}: {error}") from error
    except Exception as error:
        advice = " (on the meta device, where tensors have no values: try without --meta)" if meta else ""
        raise ModelError(f"{name} fails while it builds the model: {type(error).__name__}: {error}{advice}") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " (did you mean …?)", where something is near."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def import_library(name: str) -> Any:
    """The module of that name; ModelError where it is missing or does not work."""
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is not installed: pip install {error.name}") from error
    except Exception as error:  # such as torchvision's operators, compiled for another torch
        raise ModelError(
            f"{package} does not work with the installed torch {torch.__version__}: {error}; install the "
            f"release of {package} (or of torchvision, if it needs that) that was built for this torch"
        ) from error


class ModelLibrary(NamedTuple):
    """A library whose models are named LIBRARY:NAME.

    Attributes:
        build: takes the name, keyword arguments and `meta`; returns the model, and what declares its inputs.
        keywords: the library's names for `num_classes`, `in_channels` and `img_size`, where they differ.
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
