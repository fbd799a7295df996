"""Number of classes, channels and image size of a model, under the names that its builder has for them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args

from skiplab.loading.resolve import builder_of

# Where the builders of a library have another name.
LIBRARY_NAMES: Mapping[str, Mapping[str, str]] = {
    "timm": {"in_channels": "in_chans"},
    "torchvision": {"img_size": "image_size"},
    "transformers": {"num_classes": "num_labels", "in_channels": "num_channels", "img_size": "image_size"},
}


def keyword_name(model: str, name: str) -> str:
    """What the builder of `model` (as the user names it) calls `num_classes`, `in_channels` or `img_size`."""
    return LIBRARY_NAMES.get(model.partition(":")[0], {}).get(name, name)


def takes_img_size(model: str) -> bool:
    """Whether the builder of `model` has to know the image size, as that of a Vision Transformer.

    Convolutional networks take images of any size: there the size of the example input says it all.
    """
    library, _, name = model.partition(":")
    if library == "timm":
        import timm

        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
        return config is not None and bool(config.fixed_input_size)
    if library in LIBRARY_NAMES:
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
