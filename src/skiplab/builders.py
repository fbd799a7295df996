"""Build the models of other libraries, with random weights, and the inputs that these libraries declare."""

import difflib
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from skiplab.errors import ModelError, SkiplabError
from skiplab.inputs import Declared, Inputs, generator, normal

Built = tuple[nn.Module, Declared]


def timm(name: str, options: dict[str, Any]) -> Built:
    """`timm.create_model`, on the input of the model's default configuration."""
    library = _library("timm")
    if not library.is_model(name):
        raise ModelError(f"timm has no model `{name}`{nearest(name, library.list_models())}")
    model = call(f"timm:{name}", lambda **kw: library.create_model(name, pretrained=False, **kw), options)
    size = tuple(getattr(model, "default_cfg", {}).get("input_size", (3, 224, 224)))
    return model, lambda: ((normal(1, *size),), {})


def torchvision(name: str, options: dict[str, Any]) -> Built:
    """`torchvision.models.get_model`, on an image of 224×224."""
    models = _library("torchvision.models")
    if name not in models.list_models():
        raise ModelError(f"torchvision has no model `{name}`{nearest(name, models.list_models())}")
    options = {"weights": None, **options}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False, **options}  # their default takes a minute and warns
    model = call(f"torchvision:{name}", lambda **kw: models.get_model(name, **kw), options)
    return model, lambda: ((normal(1, 3, 224, 224),), {})


def transformers(name: str, options: dict[str, Any]) -> Built:
    """A model of a configuration in a folder or file, or of a model type's default configuration."""
    library = _library("transformers")
    try:
        if Path(name).exists():
            config = library.AutoConfig.from_pretrained(name, **options)
        else:
            config = library.AutoConfig.for_model(name, **options)
    except (ValueError, KeyError, OSError) as error:
        known = list(library.models.auto.configuration_auto.CONFIG_MAPPING_NAMES)
        raise ModelError(
            f"transformers:{name} is neither a path with a config.json nor a model type{nearest(name, known)}"
        ) from error
    if hasattr(config, "use_cache"):
        config.use_cache = False  # a cache is an output of its own, and no part of the signal's way
    model = call(f"transformers:{name}", lambda: library.AutoModel.from_config(config), {})
    return model, lambda: _dummy(model, config)


def _dummy(model: Any, config: Any) -> Inputs:
    """Pixels, sound features or token ids, as the model's main input asks for."""
    if model.main_input_name == "pixel_values":
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", 224)
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        return (), {"pixel_values": normal(1, getattr(vision, "num_channels", 3), height, width)}
    if model.main_input_name == "input_features":
        frames = 2 * getattr(config, "max_source_positions", 1500)
        start = torch.ones(1, 8, dtype=torch.long)
        return (), {"input_features": normal(1, config.num_mel_bins, frames), "decoder_input_ids": start}
    words = getattr(getattr(config, "text_config", config), "vocab_size", 100)
    ids = torch.randint(3, max(8, min(100, words)), (1, 16), generator=generator())
    inputs = {model.main_input_name: ids}
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids
    return (), inputs


def call(name: str, build: Any, options: dict[str, Any]) -> Any:
    """Calls what builds a model; whatever it raises is a ModelError that names it."""
    if not callable(build):
        raise ModelError(f"{name} is a {type(build).__name__}: it should be a function, a class or a module")
    try:
        return build(**options)
    except SkiplabError:
        raise
    except TypeError as error:
        raise ModelError(f"{name} cannot be called with --kwargs {options}: {error}") from error
    except Exception as error:
        raise ModelError(f"{name} fails while it builds the model: {type(error).__name__}: {error}") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """ " (did you mean …?)", where something is near."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _library(name: str) -> Any:
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is not installed: pip install {error.name}") from error
    except Exception as error:  # such as torchvision's operators, compiled for another torch
        raise ModelError(
            f"{package} does not work with the installed torch {torch.__version__}: {error}; install the "
            f"release of {package} (or of torchvision, if it stands on that) that was built for this torch"
        ) from error
