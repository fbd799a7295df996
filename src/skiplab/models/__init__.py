"""Models with one skip protocol (`SkipConnection`), in which variants differ in one object.

A built model says what it takes: `model.example_input_shape`, without the batch dimension.
"""

from skiplab.models.combine import DropPath, Gated, Scaled, ShortcutDropout, ShortcutGated, Weighted, concat
from skiplab.models.mlp import MLP, mlp
from skiplab.models.resmlp import ResMLP, resmlp
from skiplab.models.resnet import ResNet, resnet
from skiplab.models.shortcut import PadShortcut
from skiplab.models.sizes import (
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
from skiplab.models.skip import SkipConnection, identity
from skiplab.models.wide import wide_resnet, wide_resnet28_10

__all__ = [
    "MLP",
    "DropPath",
    "Gated",
    "PadShortcut",
    "ResMLP",
    "ResNet",
    "Scaled",
    "ShortcutDropout",
    "ShortcutGated",
    "SkipConnection",
    "Weighted",
    "concat",
    "identity",
    "mlp",
    "resmlp",
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
    "wide_resnet",
    "wide_resnet28_10",
]
