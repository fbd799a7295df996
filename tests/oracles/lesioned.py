"""Lesioned networks made by hand, on modules: hooks that replace what a block gives, blocks left out."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from oracles.tower import Block, Tower

Change = Callable[[Tensor], Tensor]
Batches = list[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def changed(tower: Tower, changes: Mapping[int, Change], part: str = "branch") -> Iterator[None]:
    """Inside it, what some blocks' branches (or shortcuts) give is changed on its way out of them."""
    handles = []
    for number, change in changes.items():
        block = tower.blocks[number]
        assert isinstance(block, Block)
        hook = lambda m, args, out, change=change: change(out).clone()  # noqa: E731 (which `InPlace` writes to)
        handles.append(block.get_submodule(part).register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def branches(tower: Tower, x: Tensor) -> list[Tensor]:
    """What each block's branch gives."""
    values: list[Tensor] = []
    for block in tower.blocks:
        assert isinstance(block, Block)
        values.append(block.branch(x).detach())
        x = block(x)
    return values


class Normed(nn.Module):
    """Residual blocks with batch norm, of (N, 2, 4, 4), that can be left out; one batch norm for all, or one each."""

    def __init__(self, blocks: int = 3, *, shared: bool = False) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in range(2 * blocks))
        norms = [nn.BatchNorm2d(2) for _ in range(2 * blocks)]
        self.norms = nn.ModuleList(norms[:1] * (2 * blocks) if shared else norms)
        self.head = nn.Linear(32, 3)
        self.left_out: frozenset[int] = frozenset()
        for norm in norms:
            nn.init.uniform_(norm.running_mean, -1, 1)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 1, 2)  # type: ignore[arg-type]
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        for block in range(len(self.convs) // 2):
            f = F.relu(self.norms[2 * block](self.convs[2 * block](x)))
            f = self.norms[2 * block + 1](self.convs[2 * block + 1](f))
            x = x + (0 * f if block in self.left_out else f)
        return self.head(x.flatten(1))


def reestimated_loss(model: Normed, batches: Batches, loss: Loss, left_out: frozenset[int] = frozenset()) -> float:
    """Mean loss of a copy without some blocks, whose statistics torch's own `update_bn` has estimated anew."""
    own = copied(model)
    own.left_out = left_out
    update_bn([x for x, _ in batches], own)
    return mean_loss(own.eval(), batches, loss)


def copied(model: Normed) -> Normed:
    blocks = len(model.convs) // 2
    own = Normed(blocks, shared=model.norms[0] is model.norms[-1])
    own.load_state_dict(model.state_dict())
    return own


def swapped(model: Normed, a: int, b: int) -> Normed:
    """The same network, with two blocks in each other's place."""
    for modules in (model.convs, model.norms):
        for i in (0, 1):
            modules[2 * a + i], modules[2 * b + i] = modules[2 * b + i], modules[2 * a + i]
    return model


def mean_loss(model: nn.Module, batches: Batches, loss: Loss) -> float:
    with torch.no_grad():
        sums = [float(loss(model(x), target)) * len(x) for x, target in batches]
    return sum(sums) / sum(len(x) for x, _ in batches)


def images(*sizes: int) -> Batches:
    """Batches with targets, in double precision, for `Normed`."""
    return [(torch.randn(n, 2, 4, 4, dtype=torch.double), torch.randint(0, 3, (n,))) for n in sizes]
