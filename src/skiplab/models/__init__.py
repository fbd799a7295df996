"""Models with one skip protocol (`SkipConnection`), in which variants differ in one object.

A built model says what it takes: `model.example_input_shape`, without the batch dimension, or, where that is
not all, `model.example_inputs()`.
"""

from skiplab.models.attention import Attention
from skiplab.models.combine import DropPath, Gated, Scaled, concat
from skiplab.models.recurrence import RecurrentNet, gru, highway_rnn, lstm, min_gru, residual_rnn, rnn
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
from skiplab.models.sequence import SequenceTransformer, transformer_decoder, transformer_encoder
from skiplab.models.shortcut import PadShortcut
from skiplab.models.skip import SkipConnection, identity
from skiplab.models.vit import VisionTransformer, vit, vit_b_16

__all__ = [
    "Attention",
    "DropPath",
    "Gated",
    "PadShortcut",
    "RecurrentNet",
    "ResNet",
    "Scaled",
    "SequenceTransformer",
    "SkipConnection",
    "VisionTransformer",
    "concat",
    "gru",
    "highway_rnn",
    "identity",
    "lstm",
    "min_gru",
    "residual_rnn",
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
    "vit",
    "vit_b_16",
]
