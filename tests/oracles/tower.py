"""A small network with five kinds of skip, and every measure of it taken by hand on the module itself.

Nothing here knows of programs: lesions are a forward pass written out again with zeros in it, contributions come
from forward hooks, gradients from autograd on the module's own parameters and kept values.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 6
Batches = list[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


class Block(nn.Module):
    """`join(shortcut(x), branch(x))`."""

    def __init__(self, shortcut: nn.Module) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.branch = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.join(self.shortcut(x), self.branch(x)))

    def join(self, x: Tensor, f: Tensor) -> Tensor:
        raise NotImplementedError

    def after(self, merged: Tensor) -> Tensor:
        return merged


class Sum(Block):
    def join(self, x: Tensor, f: Tensor) -> Tensor:
        return x + f


class InPlace(Block):
    def forward(self, x: Tensor) -> Tensor:
        f = self.branch(x)
        f += self.shortcut(x)
        return F.relu(f, inplace=True)

    def join(self, x: Tensor, f: Tensor) -> Tensor:
        return x + f

    def after(self, merged: Tensor) -> Tensor:
        return F.relu(merged)


class Difference(Block):
    def join(self, x: Tensor, f: Tensor) -> Tensor:
        return torch.sub(x, f, alpha=2)


class Concat(Block):
    def __init__(self, shortcut: nn.Module) -> None:
        super().__init__(shortcut)
        self.mix = nn.Linear(2 * WIDTH, WIDTH)

    def join(self, x: Tensor, f: Tensor) -> Tensor:
        return torch.cat((x, f), -1)

    def after(self, merged: Tensor) -> Tensor:
        return self.mix(merged)


class Tower(nn.Module):
    """The skips are, in order: identity, projection, identity (subtracted), concat/identity."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [
            Sum(nn.Identity()),
            InPlace(nn.Linear(WIDTH, WIDTH)),
            Difference(nn.Identity()),
            Concat(nn.Identity()),
        ]
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(WIDTH, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def by_hand(
    tower: Tower, x: Tensor, without: tuple[int, str] | None = None, merges: list[Tensor] | None = None
) -> Tensor:
    """The forward pass written out, with one part of one block replaced by zeros; collects the merges' values."""
    for number, block in enumerate(tower.blocks):
        assert isinstance(block, Block)
        shortcut, branch = block.shortcut(x), block.branch(x)
        if without == (number, "branch"):
            branch = torch.zeros_like(branch)
        if without == (number, "shortcut"):
            shortcut = torch.zeros_like(shortcut)
        merged = block.join(shortcut, branch)
        if merges is not None:
            merges.append(merged)
        x = block.after(merged)
    return tower.head(x)


def mean_loss(tower: Tower, batches: Batches, loss: Loss, without: tuple[int, str] | None = None) -> float:
    """Mean over samples of a loss that is a mean over its batch."""
    with torch.no_grad():
        sums = [float(loss(by_hand(tower, x, without), target)) * len(x) for x, target in batches]
    return sum(sums) / sum(len(x) for x, _ in batches)


@contextmanager
def hooked(tower: Tower) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Outputs of each block's (shortcut, branch), once a forward pass has run."""
    shortcuts, branches, handles = [], [], []
    for block in tower.blocks:
        assert isinstance(block, Block)
        handles.append(block.shortcut.register_forward_hook(lambda m, a, out: shortcuts.append(out.clone())))
        handles.append(block.branch.register_forward_hook(lambda m, a, out: branches.append(out.clone())))
    values: list[tuple[Tensor, Tensor]] = []
    yield values
    values += zip(shortcuts, branches, strict=True)
    for handle in handles:
        handle.remove()


def contributions(tower: Tower, x: Tensor) -> list[dict[str, list[float]]]:
    """For each block, each sample's ratio, cosine, growth and influence, one sample at a time."""
    with hooked(tower) as values, torch.no_grad():
        tower(x)
    factors = [1, 1, -2, 1]
    found = []
    for (shortcut, branch), factor, block in zip(values, factors, tower.blocks, strict=True):
        rows: dict[str, list[float]] = {"ratio": [], "cosine": [], "growth": [], "influence": []}
        for s, f in zip(shortcut.tolist(), (factor * branch).tolist(), strict=True):
            size, inner = norm(s), sum(a * b for a, b in zip(s, f, strict=True))
            rows["ratio"].append(norm(f) / size)
            if not isinstance(block, Concat):
                rows["cosine"].append(inner / (norm(f) * size))
                out = [a + b for a, b in zip(s, f, strict=True)]
                rows["growth"].append(norm(out) / size)
                rows["influence"].append(1 - sum(a * b for a, b in zip(s, out, strict=True)) / (size * norm(out)))
        found.append(rows)
    return found


def norm(vector: list[float]) -> float:
    return sum(each**2 for each in vector) ** 0.5


def gradients(tower: Tower, x: Tensor, target: Tensor, loss: Loss) -> tuple[dict[str, float], list[float]]:
    """Norms of the gradient: of each linear layer's kernel, by name; of each merge, root mean square over samples."""
    tower.zero_grad()
    merges: list[Tensor] = []
    value = loss(by_hand(tower, x, merges=merges), target)
    for merged in merges:
        merged.retain_grad()
    value.backward()
    layers = {name: m for name, m in tower.named_modules() if isinstance(m, nn.Linear)}
    kernels = {name: norm(layer.weight.grad.flatten().tolist()) for name, layer in layers.items()}  # type: ignore
    # Of a mean loss, a sample's own gradient is the batch's, times the number of samples.
    of_samples = [[norm((len(x) * g).flatten().tolist()) for g in merged.grad] for merged in merges]  # type: ignore
    tower.zero_grad()
    return kernels, [(sum(n**2 for n in norms) / len(norms)) ** 0.5 for norms in of_samples]


def samples(*sizes: int) -> Batches:
    """Batches with targets, in double precision."""
    return [(torch.randn(n, WIDTH, dtype=torch.double), torch.randint(0, 3, (n,))) for n in sizes]
