"""Models with one skip protocol (`SkipConnection`), in which variants differ in one object.

A model has `example_input_shape`, the shape of its input without the batch dimension. A model with several inputs or
with token ids also has `example_inputs()`.
"""

from skiplab.models.attention import Attention
from skiplab.models.combine import DropPath, Gated, Scaled, ShortcutDropout, ShortcutGated, Weighted, concat
from skiplab.models.densenet import DenseNet, densenet, densenet121, densenet161, densenet169, densenet201
from skiplab.models.highway import Highway, highway
from skiplab.models.mlp import MLP, mlp
from skiplab.models.recurrent_networks import RecurrentNet, gru, highway_rnn, lstm, min_gru, residual_rnn, rnn
from skiplab.models.resmlp import ResMLP, resmlp
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
    wide_resnet,
    wide_resnet28_10,
)
from skiplab.models.sequence import SequenceTransformer, transformer_decoder, transformer_encoder
from skiplab.models.shortcut import PadShortcut
from skiplab.models.skip import SkipConnection, identity
from skiplab.models.unet import UNet, unet
from skiplab.models.vit import VisionTransformer, vit, vit_b_16

__all__ = [
    "MLP",
    "Attention",
    "DenseNet",
    "DropPath",
    "Gated",
    "Highway",
    "PadShortcut",
    "RecurrentNet",
    "ResMLP",
    "ResNet",
    "Scaled",
    "SequenceTransformer",
    "ShortcutDropout",
    "ShortcutGated",
    "SkipConnection",
    "UNet",
    "VisionTransformer",
    "Weighted",
    "concat",
    "densenet",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "gru",
    "highway",
    "highway_rnn",
    "identity",
    "lstm",
    "min_gru",
    "mlp",
    "residual_rnn",
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
    "rnn",
    "transformer_decoder",
    "transformer_encoder",
    "unet",
    "vit",
    "vit_b_16",
    "wide_resnet",
    "wide_resnet28_10",
]
