"""The names of a model builder's keyword arguments for the number of classes, the channels and the image size."""

import inspect
from collections.abc import Callable
from typing import Any, get_args

from skiplab.loading.libraries import LIBRARIES, import_library
from skiplab.loading.resolve import builder_of


def keyword_name(model: str, name: str) -> str:
    """What the builder of `model` (as the user names it) calls `num_classes`, `in_channels` or `img_size`."""
    library = LIBRARIES.get(model.partition(":")[0])
    return library.keywords.get(name, name) if library else name


def takes_img_size(model: str) -> bool:
    """Whether the builder of `model` has to know the image size, as that of a Vision Transformer.

    Convolutional networks take images of any size: only the example input tells them the size.
    """
    library, _, name = model.partition(":")
    if library == "timm":
        timm = import_library("timm")
        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
        return config is not None and bool(config.fixed_input_size)
    if library in LIBRARIES:
        return library == "transformers" or name.startswith("vit_")
    build = builder_of(model)
    return build is not None and _takes(build, keyword_name(model, "img_size"))


def _takes(build: Callable[..., Any], name: str) -> bool:
    """Whether a function or class has a keyword argument of that name, also as part of `**options: Unpack[Options]`."""
    try:
        parameters = inspect.signature(build).parameters
    except (TypeError, ValueError):
        return False
    unpacked = [part for each in parameters.values() for part in get_args(each.annotation)]
    return name in parameters or any(name in getattr(part, "__annotations__", {}) for part in unpacked)
