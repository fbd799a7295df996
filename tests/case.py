"""The record of a network and what is known of it, and short names for writing such rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A network and what is known of it.

    Attributes:
        build: makes the network.
        inputs: makes its (args, kwargs).
        skips: number of skips by "combine/shortcut".
        census: (paths, fewest nonlinearities, most) of the first output; None where no short formula gives them.
        gates: products of two data tensors, one weighting the other (squeeze-excite, GLU), listed apart.
        fusions: merges of ways none of which is light (Inception, HRNet), listed apart.
        foldable: sums of ways that are all linear (RepVGG), listed apart.
        unknown: merges past which something is carried in no way that has a name, listed apart.
        (None in one of these four: no short count from the architecture gives it.)
        meta: without values, where the network is large and only its structure is of interest.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    skips: Mapping[str, int] = field(default_factory=dict)
    census: tuple[int, int, int] | None = None
    gates: int | None = 0
    fusions: int | None = 0
    foldable: int | None = 0
    unknown: int | None = 0
    meta: bool = False


def floats(*shapes: tuple[int, ...]) -> Callable[[], Inputs]:
    return lambda: (tuple(torch.randn(shape) for shape in shapes), {})


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def images(size: int, channels: int = 3) -> Callable[[], Inputs]:
    return floats((2, channels, size, size))


def tokens(**kwargs: Any) -> Callable[[], Inputs]:
    return lambda: ((torch.arange(16).reshape(2, 8) % 9,), kwargs)


def torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision.models

        return getattr(torchvision.models, name)(weights=None, **options)

    return build


def timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, **options)

    return build


def transformers(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**options))

    return build


def add(identity: int = 0, projection: int = 0, resample: int = 0) -> dict[str, int]:
    counts = {"add/identity": identity, "add/projection": projection, "add/resample": resample}
    return {kind: count for kind, count in counts.items() if count}


def concat(identity: int = 0, resample: int = 0) -> dict[str, int]:
    counts = {"concat/identity": identity, "concat/resample": resample}
    return {kind: count for kind, count in counts.items() if count}


def gated(count: int) -> dict[str, int]:
    return {"gated/gated": count}


def residual(blocks: int, always: int, each: int) -> tuple[int, int, int]:
    """Census of `blocks` residual blocks: `always` nonlinearities on every path, `each` on a branch alone."""
    return 2**blocks, always, always + blocks * each
