"""Transformers for sequences: tokens or vectors in, an answer about the sequence or about each step out."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.models.readout import Asked, Readout
from skiplab.models.transformer import DecoderLayer, Design, EncoderLayer, Placement, Stack
from skiplab.validation import checked, require_one_of, require_positive

EXAMPLE = 8  # steps of an example input


class Options(TypedDict, total=False):
    """Keyword options of both constructors here."""

    inputs: int
    """Values at each step: 1. Not used with a `vocabulary`."""
    vocabulary: int | None
    """For tokens, int64 (N, T), how many there are. None (default): vectors, (N, T, inputs)."""
    num_classes: int
    """Size of the output: 10."""
    length: int
    """The most steps that learned positions know: 256."""
    positions: Literal["learned", "sinusoidal"]
    """Learned (default), or the sinusoids of Vaswani et al. 2017, §3.5."""
    readout: Asked
    """What is asked: of the last step, of the mean over steps (the encoder's default), or of each of the "steps"
    (the decoder's)."""
    width: int
    """Of the signal: 64."""
    heads: int
    """Of each attention: 4."""
    hidden: int | None
    """Width inside the MLPs: 4 × width."""
    dropout: float
    """Of attention weights, in the MLPs and after each sublayer: 0."""
    activation: Literal["relu", "gelu"]
    """Of the MLPs: gelu."""
    placement: Placement
    """Norms before the sublayers (pre, default), after the merges (post), or before sublayers in parallel."""
    skip: bool
    """False leaves out every shortcut, and nothing else: the twin."""
    causal: bool
    """Whether a step sees itself and the steps before it alone: no for the encoder, yes for the decoder."""


@dataclass(frozen=True)
class Task:
    """What a sequence is made of, and what is asked about it; see `Options`."""

    inputs: int = 1
    vocabulary: int | None = None
    num_classes: int = 10
    length: int = 256
    positions: Literal["learned", "sinusoidal"] = "learned"
    readout: Asked = "mean"

    def __post_init__(self) -> None:
        require_one_of("positions", self.positions, ("learned", "sinusoidal"))
        require_positive(inputs=self.inputs, num_classes=self.num_classes, length=self.length)
        if self.vocabulary is not None:
            require_positive(vocabulary=self.vocabulary)


def sinusoids(length: int, width: int) -> Tensor:
    """(length, width): sine in even, cosine in odd channels, of wavelengths from 2π to 10000 · 2π (§3.5)."""
    channels = torch.arange(0, width, 2)
    angles = torch.arange(length)[:, None] * torch.exp(-math.log(10000) * channels / width)
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)[:, :width]


class Embedded(nn.Module):
    """Tokens (N, T) or vectors (N, T, inputs) as (N, T, width), with their positions added."""

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
                f"a sequence of {x.shape[1]} steps, where positions are known up to {len(self.positions)}: build "
                f"the network with length={x.shape[1]}"
            )
        return self.values(x) + self.positions[: x.shape[1]]


class SequenceTransformer(nn.Module):
    """Embedding, layers and readout; a decoder takes the memory, (N, S, width), as its second argument."""

    def __init__(self, task: Task, layers: Stack, width: int, remembers: bool) -> None:
        super().__init__()
        self.embed, self.layers = Embedded(task, width), layers
        self.head = Readout(width, task.num_classes, task.readout)
        self.example_input_shape = (EXAMPLE,) if task.vocabulary else (EXAMPLE, task.inputs)
        self.tokens, self.memory_shape = bool(task.vocabulary), (EXAMPLE, width) if remembers else None

    def example_inputs(self) -> tuple[Tensor, ...]:
        """One sequence, and one memory for a decoder; the same in every run."""

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
    options = checked(options, Options.__annotations__, "a Transformer")
    of_task = {field.name for field in fields(Task)}
    task = Task(**{name: value for name, value in options.items() if name in of_task})
    design = Design(**{name: value for name, value in options.items() if name not in of_task})
    return SequenceTransformer(task, Stack(kind, depth, design), design.width, kind is DecoderLayer)
