"""Small networks written by hand, one pattern each. All take (N, 8), (N, T, 8) or (N, 4, 8, 8) tensors."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WIDTH = 8


class Net(nn.Module):
    """A `forward` given as a function of (net, *inputs), and the modules that it uses."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class TwoInputs(Net):
    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
        return self.function(self, x, y)


def linear(inputs: int = WIDTH, outputs: int = WIDTH) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def conv(inputs: int = 4, outputs: int = 4, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, norm and ReLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def heavy() -> nn.Sequential:
    """A branch of two weight layers with a ReLU between them."""
    return nn.Sequential(linear(), nn.ReLU(), linear())


def around(function: Callable[[Tensor, Tensor], Any]) -> Net:
    """`function(x, F(x))` with a heavy branch F."""
    return Net(lambda net, x: function(x, net.branch(x)), branch=heavy())


class Block(nn.Module):
    """x + F(x)."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = heavy()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Attention(nn.Module):
    """Two heads; with `scores` a function of the scores before the softmax, and with a rotary embedding or not."""

    def __init__(self, rotary: bool = False) -> None:
        super().__init__()
        self.qkv, self.out, self.rotary = linear(WIDTH, 3 * WIDTH), linear(), rotary

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.rotary:
            q, k = rotated(q), rotated(k)
        scores = q @ k.transpose(-1, -2) / 2
        if mask is not None:
            scores = scores + mask
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def rotated(q: Tensor) -> Tensor:
    """Rotary position embedding of (N, heads, T, D)."""
    angle = torch.arange(q.shape[-2])[:, None] * torch.ones(q.shape[-1])
    half = q.shape[-1] // 2
    return q * angle.cos() + torch.cat((-q[..., half:], q[..., :half]), -1) * angle.sin()


def mlp() -> nn.Sequential:
    return nn.Sequential(linear(WIDTH, 16), nn.GELU(), linear(16, WIDTH))


class Transformer(nn.Module):
    """One block: "pre" or "post" norm, or "parallel", where attention and MLP read the same value."""

    def __init__(self, form: str, rotary: bool = False) -> None:
        super().__init__()
        self.form, self.attention, self.mlp = form, Attention(rotary), mlp()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.form == "parallel":
            return x + self.attention(self.norm1(x), mask) + self.mlp(self.norm2(x))
        if self.form == "pre":
            x = x + self.attention(self.norm1(x), mask)
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attention(x, mask))
        return self.norm2(x + self.mlp(x))


def masked() -> nn.Module:
    """Two blocks that add the same mask to their scores: the second mask is no skip past the first block."""
    return TwoInputs(lambda net, x, mask: net.b(net.a(x, mask), mask), a=Transformer("pre"), b=Transformer("pre"))


class UNet(nn.Module):
    """Two levels down and up, with the long skips joined by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = conv(4, 4), conv(4, 4), conv(4, 4)
        self.up2, self.up1, self.head = conv(8, 4), conv(8, 4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        bottom = F.interpolate(self.bottom(F.max_pool2d(second, 2)), scale_factor=2.0)
        inner = self.up2(torch.cat((second, bottom), 1))
        outer = self.up1(torch.cat((first, F.interpolate(inner, scale_factor=2.0)), 1))
        return self.head(outer)


class DenseBlock(nn.Module):
    """Each layer reads the concatenation of everything before it."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv(4 * (i + 1), 4) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for layer in self.layers:
            values.append(layer(torch.cat(values, 1)))
        return torch.cat(values, 1)


class Res2Net(nn.Module):
    """A residual block whose branch is itself residual from group to group."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.groups = conv(4, 12, 1), nn.ModuleList(conv(4, 4) for _ in range(2))
        self.reduce = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.expand(x).chunk(3, 1)
        first = self.groups[0](a)
        second = self.groups[1](first + b)
        return x + self.reduce(torch.cat((first, second, c), 1))


class Fusion(nn.Module):
    """Two parallel streams from one stem that exchange their values once, as in HRNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.high, self.low = conv(), conv(), conv(stride=2)
        self.down, self.up = conv(stride=2), conv()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stem = self.stem(x)
        high, low = self.high(stem), self.low(stem)
        return high + F.interpolate(self.up(low), scale_factor=2.0), low + self.down(high)


class Inception(nn.Module):
    """Four branches of one to two weight layers, all with activations."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.pool, self.three = conv(kernel=1), conv(kernel=1), nn.Sequential(conv(kernel=1), conv())

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(F.avg_pool2d(x, 3, 1, 1))
        return torch.cat((self.one(x), self.three(x), pooled, F.max_pool2d(x, 3, 1, 1)), 1)


class RepVgg(nn.Module):
    """Three linear branches and a ReLU: one convolution in disguise."""

    def __init__(self) -> None:
        super().__init__()
        self.three, self.one = conv()[:2], conv(kernel=1)[:2]
        self.same = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.three(x) + self.one(x) + self.same(x))


class BasicBlock(nn.Module):
    """A post-activation block, written with in-place operators or without."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.bn1, self.bn2, self.inplace = nn.BatchNorm2d(4), nn.BatchNorm2d(4), inplace

    def forward(self, x: Tensor) -> Tensor:
        f = F.relu(self.bn1(self.conv1(x)), inplace=self.inplace)
        f = self.bn2(self.conv2(f))
        if self.inplace:
            f += x
        else:
            f = f + x
        return F.relu(f, inplace=self.inplace)


class Checkpointed(nn.Module):
    """Two residual blocks whose branches are recomputed in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.branches, self.reentrant = nn.ModuleList([heavy(), heavy()]), reentrant

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + checkpoint(branch, x, use_reentrant=self.reentrant)  # type: ignore[operator]
        return x


class Encoded(nn.Module):
    """Token ids and an image-like tensor by keyword, a dictionary out."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.block = nn.Embedding(10, WIDTH), nn.Embedding(5, WIDTH), Block()

    def forward(self, ids: Tensor, *, extra: dict[str, Tensor]) -> dict[str, Any]:
        places = torch.arange(ids.shape[1])
        x = self.words(ids) + self.places(places) + extra["offset"]
        return {"hidden": self.block(x), "nothing": None, "length": 5}


class Highway(nn.Module):
    """F(x)·t + x·(1 − t) with a gate t computed from x."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.gate = linear(), linear()

    def forward(self, x: Tensor) -> Tensor:
        t = torch.sigmoid(self.gate(x))
        return F.relu(self.branch(x)) * t + x * (1 - t)


class Autocast(nn.Module):
    """A residual block whose branch runs in half precision by its own decision."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = heavy()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.branch(x)
        return x + y


class Frozen(nn.Module):
    """Residual blocks under `no_grad`, and under autocast that is switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.exact = Block(), Block()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.frozen(x)
        with torch.autocast("cpu", enabled=False):
            return self.exact(x)


class Recurrent(nn.Module):
    """x + LSTM(x)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.lstm(x)[0]


class Counting(nn.Module):
    """Reads a buffer that it has just written, in whole and in part, and replaces another."""

    steps: Tensor
    queue: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("queue", torch.zeros(3, WIDTH))
        self.register_buffer("total", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        self.steps.add_(1)
        self.queue[0] = self.queue[0] * 0.5 + x.mean(0)
        self.total = self.total + x.sum(0)
        return self.block(x) + self.steps + self.queue[0] + self.total


def tanh_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def summed(x: Tensor, y: Tensor) -> Tensor:
    return functools.reduce(torch.Tensor.add_, [y, x])


class WrittenGru(nn.Module):
    """A GRU in plain operators, from a zero state; the last state is returned. `form` says how its sum is written."""

    def __init__(self, form: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.inputs, self.states, self.form = linear(WIDTH, 3 * WIDTH), linear(WIDTH, 3 * WIDTH), form

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], WIDTH)
        for t in range(x.shape[1]):
            a, b = self.inputs(x[:, t]).chunk(3, -1), self.states(h).chunk(3, -1)
            z, r = torch.sigmoid(a[0] + b[0]), torch.sigmoid(a[1] + b[1])
            h = self.form(torch.tanh(a[2] + r * b[2]), h, z)
        return h


class WrittenLstm(nn.Module):
    """An LSTM in plain operators, from a zero state; the last state is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.states = linear(WIDTH, 4 * WIDTH), linear(WIDTH, 4 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(x.shape[0], WIDTH)
        for step in x.unbind(1):
            i, f, g, o = (self.inputs(step) + self.states(h)).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return h


class WrittenRnn(nn.Module):
    """An Elman network in plain operators."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.states = linear(), linear()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], WIDTH)
        for t in range(x.shape[1]):
            h = torch.tanh(self.inputs(x[:, t]) + self.states(h))
        return h


class MinGru(nn.Module):
    """Gates and candidates computed from the input alone, so that a step is (1 − z)·h + z·h̃ (Feng et al. 2024).

    With `fused`, both are halves of what one layer gives.
    """

    def __init__(self, fused: bool = False) -> None:
        super().__init__()
        self.gate, self.candidate = linear(WIDTH, 2 * WIDTH if fused else WIDTH), None if fused else linear()

    def forward(self, x: Tensor) -> Tensor:
        if self.candidate is None:
            z, candidate = self.gate(x).chunk(2, -1)
        else:
            z, candidate = self.gate(x), self.candidate(x)
        z = torch.sigmoid(z)
        h, states = torch.zeros(x.shape[0], WIDTH), []
        for t in range(x.shape[1]):
            h = (1 - z[:, t]) * h + z[:, t] * candidate[:, t]
            states.append(h)
        return torch.stack(states, 1)


class SteppedMinGru(MinGru):
    """The same from halves of each step, not steps of each half."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], WIDTH)
        for both in self.gate(x).unbind(1):
            z, candidate = both.chunk(2, -1)
            z = torch.sigmoid(z)
            h = (1 - z) * h + z * candidate
        return h


class Cells(nn.Module):
    """A recurrent cell in a loop, which starts without a state."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return state[0] if isinstance(state, tuple) else state  # type: ignore[return-value]


class HyperConnections(nn.Module):
    """Two lanes, mixed by a matrix past each block: a parameter, or computed from the data (Zhu et al. 2024)."""

    def __init__(self, dynamic: bool) -> None:
        super().__init__()
        self.branch, self.mixing, self.dynamic = heavy(), nn.Parameter(torch.eye(2)), dynamic
        self.into, self.out = nn.Parameter(torch.ones(2, 1)), linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        lanes = torch.stack((torch.relu(x), torch.tanh(x)), 1)
        mixing = self.mixing
        if self.dynamic:
            mixing = torch.tanh(self.out(x)).unflatten(-1, (2, 2))
        return (mixing @ lanes + self.into * self.branch(lanes.sum(1))[:, None]).mean(1)


class SelectiveKernel(nn.Module):
    """Two branches weighted by gates that are computed from their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.gate = heavy(), heavy(), linear()

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.relu(self.one(x)), F.relu(self.two(x))
        g = torch.sigmoid(self.gate(a + b))
        return g * a + (1 - g) * b
