"""Vision Transformers: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", arXiv:2010.11929.

Modules have torchvision's names: its weights load, and then the outputs are equal.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.models.attention import Attention
from skiplab.models.transformer import Design, Layer, Placement
from skiplab.validation import known_options, require_positive


class Options(TypedDict, total=False):
    """Keyword options of all constructors in this module, with the defaults of `vit`."""

    img_size: int
    """Height and width of the input in pixels: 8."""
    patch: int
    """Height and width of a patch in pixels: 2."""
    depth: int
    """Layers: 4."""
    width: int
    """Width of the signal: 64."""
    heads: int
    """Attention heads: 4."""
    hidden: int | None
    """Width inside the MLPs: 4 × width."""
    dropout: float
    """Dropout rate after the position embeddings, each sublayer and the MLP's activation: 0."""
    placement: Placement
    """Norms before the sublayers ("pre", default, as published), after the merges ("post"), or "parallel"."""
    skip: bool
    """Default True. False gives the plain network, without shortcuts."""
    num_classes: int
    """Size of the output: 10."""
    in_channels: int
    """Channels of the input: 1."""


@dataclass(frozen=True)
class ImageTask:
    """Form of input and output; see `Options`."""

    img_size: int
    patch: int
    in_channels: int
    num_classes: int

    def __post_init__(self) -> None:
        require_positive(img_size=self.img_size, patch=self.patch)
        require_positive(in_channels=self.in_channels, num_classes=self.num_classes)
        if self.img_size % self.patch:
            raise UsageError(f"patch={self.patch} does not divide img_size={self.img_size}: choose sizes that fit")


class EncoderBlock(Layer):
    """Self-attention and MLP with GELU. Dropout acts on their outputs, not on the attention weights."""

    sublayers = {"ln_1": "attend", "ln_2": "feed"}  # noqa: RUF012

    def __init__(self, design: Design) -> None:
        super().__init__(design)
        self.ln_1 = nn.LayerNorm(design.width, eps=1e-6)
        self.self_attention = Attention(design.width, design.heads)
        self.dropout = nn.Dropout(design.dropout)
        self.ln_2 = nn.LayerNorm(design.width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(design.width, design.inner),
            nn.GELU(),
            nn.Dropout(design.dropout),
            nn.Linear(design.inner, design.width),
            nn.Dropout(design.dropout),
        )
        for linear in self.mlp:
            if isinstance(linear, nn.Linear):
                nn.init.xavier_uniform_(linear.weight)
                nn.init.normal_(linear.bias, std=1e-6)

    def attend(self, x: Tensor) -> Tensor:
        return self.dropout(self.self_attention(x))

    def feed(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class Encoder(nn.Module):
    """Position embeddings, layers, and a final norm unless the placement is "post"."""

    def __init__(self, places: int, depth: int, design: Design) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, places, design.width) * 0.02)
        self.dropout = nn.Dropout(design.dropout)
        self.layers = nn.Sequential(OrderedDict((f"encoder_layer_{i}", EncoderBlock(design)) for i in range(depth)))
        self.ln = nn.Identity() if design.placement == "post" else nn.LayerNorm(design.width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(self.layers(self.dropout(x + self.pos_embedding)))


class VisionTransformer(nn.Module):
    """A class token and patches, layers, and a linear head on the class token: (N, C, H, W) gives (N, classes).

    The head is initialized like any linear layer. torchvision initializes it to zero, so that the layers before it get
    no gradient in the first step.
    """

    def __init__(self, task: ImageTask, depth: int, design: Design) -> None:
        super().__init__()
        require_positive(depth=depth)
        self.example_input_shape = (task.in_channels, task.img_size, task.img_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, design.width))
        self.conv_proj = nn.Conv2d(task.in_channels, design.width, task.patch, task.patch)
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (task.in_channels * task.patch**2)))
        nn.init.zeros_(self.conv_proj.bias)  # type: ignore[arg-type]
        self.encoder = Encoder(1 + (task.img_size // task.patch) ** 2, depth, design)
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(design.width, task.num_classes)))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.example_input_shape:
            raise UsageError(f"images of shape {tuple(x.shape[1:])}, but this network takes {self.example_input_shape}")
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_token.expand(x.shape[0], -1, -1), patches), dim=1)
        return self.heads(self.encoder(x)[:, 0])


def vit(**options: Unpack[Options]) -> VisionTransformer:
    """A Vision Transformer, by default for 8×8 digits: input (N, 1, 8, 8), sixteen patches, four layers."""
    chosen = known_options(options, Options.__annotations__, "a ViT")
    depth = chosen.pop("depth", 4)
    small = {"img_size": 8, "patch": 2, "in_channels": 1, "num_classes": 10}
    task = ImageTask(**{name: chosen.pop(name, value) for name, value in small.items()})
    return VisionTransformer(task, depth, Design(**chosen))


def vit_b_16(**options: Unpack[Options]) -> VisionTransformer:
    """ViT-B/16: Table 1 and §4.1. Input (N, 3, 224, 224)."""
    published = Options(
        img_size=224, patch=16, depth=12, width=768, heads=12, hidden=3072, num_classes=1000, in_channels=3
    )
    return vit(**published | options)
