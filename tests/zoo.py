"""Models for the tests of the command line: what users write, the right and the wrong way."""

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.branch = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.last = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.branch(x)
        return self.last(x)


def bare(width: int = 6) -> nn.Module:
    return Residual(width)


def with_tensor() -> tuple[nn.Module, Tensor]:
    return Residual(), torch.randn(3, 4)


def with_tuple() -> tuple[nn.Module, tuple[Tensor]]:
    return Residual(), (torch.randn(3, 4),)


def with_keywords() -> tuple[nn.Module, dict[str, Tensor]]:
    return Residual(), {"x": torch.randn(3, 4)}


class Overwriting(nn.Module):
    """An activation in place, on the value that the shortcut is meant to carry."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.second(torch.tanh(self.first(self.relu(x))))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 5)
        self.mix = nn.Linear(5, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return x + torch.tanh(self.mix(x))


class Raises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("the sky is falling")


class Undecided(nn.Module):
    """Takes a way that depends on the data's values, which no graph can hold."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def raises_while_building() -> nn.Module:
    raise RuntimeError("no such weights")


def returns_nothing() -> None:
    return None


instance = Residual()
number = 3
