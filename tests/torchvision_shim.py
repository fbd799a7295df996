"""Makes `import torchvision` work beside a torch that its compiled part was not built for.

torchvision's wheel is built for CUDA. With a CPU torch its library does not load, and its import stops where it
describes operators that the library would have defined. Its models need none of them: here they get their
names. Where torchvision is missing, or imports as it is, nothing happens.
"""

import importlib
import sys

import torch

OPERATORS = ("nms", "qnms", "roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "qroi_align", "deform_conv2d")
DIFFERENTIABLE = ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d")


def prepare() -> torch.library.Library | None:
    """Imports torchvision; the library returned holds the names for as long as it lives."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return None
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return None
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the broken import left half done
    library = torch.library.Library("torchvision", "DEF")
    for operator in [*OPERATORS, *(f"_{name}_backward" for name in DIFFERENTIABLE)]:
        library.define(f"{operator}(Tensor a) -> Tensor")
    importlib.import_module("torchvision")
    return library


LIBRARY = prepare()
