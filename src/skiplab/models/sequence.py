"""Transformers: sequences of tokens or vectors in, one output per sequence or per step."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.models.readout import Readout, ReadoutMode
from skiplab.models.transformer import DecoderLayer, Design, EncoderLayer, Placement, Stack
from skiplab.validation import known_options, require_one_of, require_positive

EXAMPLE = 8  # steps of an example input


class Options(TypedDict, total=False):
    """Keyword options of both constructors in this module."""

    inputs: int
    """Values at each step: 1. Ignored with a `vocabulary`."""
    vocabulary: int | None
    """Number of different tokens, for input of int64 (N, T). None (default): vectors (N, T, inputs)."""
    num_classes: int
    """Size of the output: 10."""
    length: int
    """Longest sequence, in steps: 256."""
    positions: Literal["learned", "sinusoidal"]
    """Position embeddings: "learned" (default), or the sinusoids of Vaswani et al. 2017, §3.5."""
    readout: ReadoutMode
    """What the output is computed from: the "last" step, the "mean" over steps (default of the encoder), or each of the
    "steps" (default of the decoder)."""
    width: int
    """Width of the signal: 64."""
    heads: int
    """Attention heads: 4."""
    hidden: int | None
    """Width inside the MLPs: 4 × width."""
    dropout: float
    """Dropout rate of attention weights, in the MLPs and after each sublayer: 0."""
    activation: Literal["relu", "gelu"]
    """Activation of the MLPs: "gelu"."""
    placement: Placement
    """Norms before the sublayers ("pre", default), after the merges ("post"), or before "parallel" sublayers."""
    skip: bool
    """Default True. False gives the plain network, without shortcuts."""
    causal: bool
    """Whether a step attends only to itself and earlier steps: no for the encoder, yes for the decoder."""


@dataclass(frozen=True)
class Task:
    """Form of input and output; see `Options`."""

    inputs: int = 1
    vocabulary: int | None = None
    num_classes: int = 10
    length: int = 256
    positions: Literal["learned", "sinusoidal"] = "learned"
    readout: ReadoutMode = "mean"

    def __post_init__(self) -> None:
        require_one_of("positions", self.positions, ("learned", "sinusoidal"))
        require_positive(inputs=self.inputs, num_classes=self.num_classes, length=self.length)
        if self.vocabulary is not None:
            require_positive(vocabulary=self.vocabulary)


def sinusoids(length: int, width: int) -> Tensor:
    """(length, width): sines in even, cosines in odd channels, with wavelengths from 2π to 10000 · 2π (§3.5)."""
    channels = torch.arange(0, width, 2)
    angles = torch.arange(length)[:, None] * torch.exp(-math.log(10000) * channels / width)
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)[:, :width]


class SequenceEmbedding(nn.Module):
    """Tokens (N, T) or vectors (N, T, inputs) as (N, T, width), with position embeddings added."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        self.values = nn.Embedding(task.vocabulary, width) if task.vocabulary else nn.Linear(task.inputs, width)
        self.learned = task.positions == "learned"
        if self.learned:
            self.positions = nn.Parameter(torch.randn(task.length, width) * 0.02)
        else:
            self.register_buffer("positions", sinusoids(task.length, width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > len(self.positions):
            raise UsageError(
                f"a sequence of {x.shape[1]} steps is longer than the {len(self.positions)} that this network takes: "
                f"build it with length={x.shape[1]}"
            )
        return self.values(x) + self.positions[: x.shape[1]]


class SequenceTransformer(nn.Module):
    """Embedding, layers and readout; a decoder takes the memory, (N, S, width), as its second argument."""

    def __init__(self, task: Task, layers: Stack, width: int, has_memory: bool) -> None:
        super().__init__()
        self.embed, self.layers = SequenceEmbedding(task, width), layers
        self.head = Readout(width, task.num_classes, task.readout)
        self.example_input_shape = (EXAMPLE,) if task.vocabulary else (EXAMPLE, task.inputs)
        self.tokens, self.memory_shape = bool(task.vocabulary), (EXAMPLE, width) if has_memory else None

    def example_inputs(self) -> tuple[Tensor, ...]:
        """One sequence, and for a decoder one memory. They are the same in every run."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))

        tokens = torch.randint(0, 2, (1, EXAMPLE), generator=torch.Generator().manual_seed(0))
        sequence = tokens if self.tokens else normal(*self.example_input_shape)
        return (sequence,) if self.memory_shape is None else (sequence, normal(*self.memory_shape))

    def forward(self, x: Tensor, *memory: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(x), *memory))


def transformer_encoder(depth: int = 2, **options: Unpack[Options]) -> SequenceTransformer:
    """`depth` layers of self-attention and MLP: (N, T, inputs), or tokens (N, T), gives (N, classes)."""
    return _transformer(EncoderLayer, depth, dict(options))


def transformer_decoder(depth: int = 2, **options: Unpack[Options]) -> SequenceTransformer:
    """`depth` layers of causal self-attention, attention to a memory, and MLP.

    A sequence (N, T, inputs), or tokens (N, T), and a memory (N, S, width) give (N, classes, T).
    """
    return _transformer(DecoderLayer, depth, {"causal": True, "readout": "steps"} | options)


def _transformer(kind: type[EncoderLayer], depth: int, options: dict[str, Any]) -> SequenceTransformer:
    options = known_options(options, Options.__annotations__, "a Transformer")
    of_task = {field.name for field in fields(Task)}
    task = Task(**{name: value for name, value in options.items() if name in of_task})
    design = Design(**{name: value for name, value in options.items() if name not in of_task})
    return SequenceTransformer(task, Stack(kind, depth, design), design.width, kind is DecoderLayer)
