"""Models with one skip protocol (`SkipConnection`), in which variants differ in one object.

A built model says what it takes: `model.example_input_shape`, without the batch dimension.
"""

from skiplab.models.combine import DropPath, Gated, Scaled, concat
from skiplab.models.resnet import (
    ResNet,
    resnet,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet44,
    resnet50,
    resnet56,
    resnet101,
    resnet110,
    resnet152,
    resnet1202,
)
from skiplab.models.shortcut import PadShortcut
from skiplab.models.skip import SkipConnection, identity

__all__ = [
    "DropPath",
    "Gated",
    "PadShortcut",
    "ResNet",
    "Scaled",
    "SkipConnection",
    "concat",
    "identity",
    "resnet",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
    "resnet152",
    "resnet1202",
]
