"""Models with one skip protocol (`SkipConnection`), in which variants differ in one object.

A built model says what it takes: `model.example_input_shape`, without the batch dimension.
"""

from skiplab.models.combine import DropPath, Gated, Scaled, ShortcutDropout, ShortcutGated, Weighted, concat
from skiplab.models.densenet import DenseNet, densenet, densenet121, densenet161, densenet169, densenet201
from skiplab.models.highway import Highway, highway
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
from skiplab.models.unet import UNet, unet
from skiplab.models.wide import wide_resnet, wide_resnet28_10

__all__ = [
    "MLP",
    "DenseNet",
    "DropPath",
    "Gated",
    "Highway",
    "PadShortcut",
    "ResMLP",
    "ResNet",
    "Scaled",
    "ShortcutDropout",
    "ShortcutGated",
    "SkipConnection",
    "UNet",
    "Weighted",
    "concat",
    "densenet",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "highway",
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
    "unet",
    "wide_resnet",
    "wide_resnet28_10",
]
