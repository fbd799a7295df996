"""Names of a builder's keyword arguments for the number of classes, the input channels and the image size."""

import inspect
from collections.abc import Callable
from typing import Any, get_args

from skiplab.loading.libraries import LIBRARIES, import_library
from skiplab.loading.resolve import builder_of


def keyword_name(model: str, name: str) -> str:
    """The name of `num_classes`, `in_channels` or `img_size` in the builder of `model` (MODEL on the command line)."""
    library = LIBRARIES.get(model.partition(":")[0])
    return library.keywords.get(name, name) if library else name


def takes_img_size(model: str) -> bool:
    """Whether the builder of `model` has an argument for the image size, such as that of a Vision Transformer.

    Convolutional networks take images of any size; there only the example input has this size.
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
    """Whether a function or class has a keyword argument `name`, including those of `**options: Unpack[Options]`."""
    try:
        parameters = inspect.signature(build).parameters
    except (TypeError, ValueError):
        return False
    unpacked = [options for each in parameters.values() for options in get_args(each.annotation)]
    return name in parameters or any(name in getattr(options, "__annotations__", {}) for options in unpacked)
