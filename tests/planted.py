"""Random networks with skip connections planted in them, and decoys: what is in them is known by construction.

A plan is a tree of pieces, each of which maps a value to one of the same form: images (N, 4, H, W) or tokens
(N, T, 8). A branch ends in two weight layers with an activation between them, so that it is heavier than any
shortcut and no sum inside it runs into the one behind it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from networks import Net, tanh_gelu

Forward = Callable[..., Tensor]


@dataclass(frozen=True)
class Form:
    """What a value is, and the layers that take and give it."""

    name: str
    channels: int
    dim: int  # of the channels
    shape: tuple[int, ...]

    def layer(self, inputs: int = 1, outputs: int = 1, kernel: int = 3) -> nn.Module:
        a, b = inputs * self.channels, outputs * self.channels
        return nn.Conv2d(a, b, kernel, padding=kernel // 2) if self.name == "image" else nn.Linear(a, b)

    def heavy(self) -> nn.Module:
        return nn.Sequential(self.layer(), nn.ReLU(), self.layer())

    def norm(self) -> nn.Module:
        return nn.BatchNorm2d(self.channels) if self.name == "image" else nn.LayerNorm(self.channels)


IMAGE = Form("image", 4, 1, (2, 4, 8, 8))
TOKENS = Form("tokens", 8, 2, (2, 4, 8))
FORMS = {form.name: form for form in (IMAGE, TOKENS)}


@dataclass(frozen=True)
class Piece:
    """A kind of piece, the pieces inside it, and the kind of its shortcut where it has one."""

    kind: str
    inside: tuple["Piece", ...] = ()
    shortcut: str = "identity"


@dataclass(frozen=True)
class Kind:
    """How a piece is built, and what is in it beside what is inside it.

    Attributes:
        forward: of (net, x), with the modules below as `net.name`.
        modules: what to make for it.
        skips: "combine/shortcut" -> count; "*" stands for the shortcut's own kind.
        apart: reason -> count.
        inside: whether `net.inside` holds further pieces.
        forms: in which it exists.
    """

    forward: Forward
    modules: Callable[[Form], dict[str, nn.Module]] = lambda form: {}
    skips: tuple[tuple[str, int], ...] = ()
    apart: tuple[tuple[str, int], ...] = ()
    inside: bool = False
    forms: tuple[str, ...] = ("image", "tokens")


def branch(net: Any, x: Tensor) -> Tensor:
    return net.tail(net.inside(x))


def tail(form: Form) -> dict[str, nn.Module]:
    return {"tail": form.heavy()}


def joined(*factors: int) -> Callable[[Form], dict[str, nn.Module]]:
    return lambda form: {**tail(form), "out": nn.Sequential(form.layer(sum(factors) or 2, 1, 1), nn.ReLU())}


def cat(net: Any, *values: Tensor) -> Tensor:
    return net.out(torch.cat(values, net.dim))


def rotated(x: Tensor) -> Tensor:
    angle = torch.linspace(0, 1, x.shape[-1])
    half = x.shape[-1] // 2
    return x * angle.cos() + torch.cat((-x[..., half:], x[..., :half]), -1) * angle.sin()


def attention(net: Any, x: Tensor) -> Tensor:
    q, k, v = net.qkv(x).chunk(3, -1)
    scores = rotated(q) @ rotated(k).transpose(-1, -2) + torch.ones(x.shape[1], x.shape[1]).tril().log()
    return net.out(scores.softmax(-1) @ v)


def squeezed(net: Any, x: Tensor) -> Tensor:
    f = F.relu(net.f(x))
    return f * torch.sigmoid(net.g(f.mean(net.positions, keepdim=True)))


def selected(net: Any, x: Tensor) -> Tensor:
    a, b = F.relu(net.f(x)), F.relu(net.g(x))
    by = torch.sigmoid(net.h((a + b).mean(net.positions, keepdim=True)))
    return a * by + b * (1 - by)


def dense(net: Any, x: Tensor) -> Tensor:
    values = [x]
    for layer in (net.f, net.g, net.h):
        values.append(F.relu(layer(torch.cat(values, net.dim))))
    return cat(net, *values)


def stepped(net: Any, x: Tensor) -> Tensor:
    state, states = None, []
    for t in range(x.shape[1]):
        state = net.cell(x[:, t], state)
        states.append(state)
    return net.out(torch.stack(states, 1))


def layers(*names: str) -> Callable[[Form], dict[str, nn.Module]]:
    return lambda form: {name: form.layer() for name in names}


LIGHT: dict[str, tuple[str, Callable[[Any, Tensor], Tensor]]] = {
    "identity": ("identity", lambda net, x: x),
    "flipped": ("identity", lambda net, x: x.flip(-1)),
    "permuted": ("identity", lambda net, x: x.transpose(-1, -2).contiguous().transpose(-1, -2)),
    "dropped": ("identity", lambda net, x: F.dropout(x, 0.1, net.training)),
    "halved": ("resample", lambda net, x: 0.5 * x),
    "scaled": ("resample", lambda net, x: net.gamma * x),
    "padded": ("resample", lambda net, x: F.pad(x[..., 1:], (0, 1))),
    "projected": ("projection", lambda net, x: net.p(x)),
}

KINDS: dict[str, Kind] = {
    # nothing in them
    "layer": Kind(lambda net, x: F.relu(net.f(x)), layers("f")),
    "linear": Kind(lambda net, x: net.f(x), layers("f")),
    "norm": Kind(lambda net, x: F.gelu(net.n(x)), lambda form: {"n": form.norm()}),
    "views": Kind(lambda net, x: x.flatten(1).roll(3, 1).view(x.shape).flip(1)),
    "around": Kind(
        lambda net, x: F.interpolate(net.f(F.max_pool2d(x, 2)), scale_factor=2.0), layers("f"), forms=("image",)
    ),
    "attention": Kind(attention, lambda form: {"qkv": form.layer(1, 3), "out": form.layer()}, forms=("tokens",)),
    # decoys
    "weightless": Kind(lambda net, x: x + torch.tanh(x)),
    "rotary": Kind(lambda net, x: rotated(x)),
    "tanh_gelu": Kind(lambda net, x: tanh_gelu(x)),
    "rms_norm": Kind(lambda net, x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)),
    "bias": Kind(lambda net, x: x + net.f.bias.sum(), layers("f")),
    "swish": Kind(lambda net, x: x * torch.sigmoid(x)),
    "squeeze": Kind(squeezed, layers("f", "g"), apart=(("gate", 1),)),
    "gated_unit": Kind(lambda net, x: net.f(x) * F.silu(net.g(x)), layers("f", "g"), apart=(("gate", 1),)),
    "glu": Kind(lambda net, x: F.glu(net.f(x), net.dim), lambda form: {"f": form.layer(1, 2)}, apart=(("gate", 1),)),
    "chunked_unit": Kind(
        lambda net, x: (lambda a, b: torch.sigmoid(a) * b)(*net.f(x).chunk(2, net.dim)),
        lambda form: {"f": form.layer(1, 2)},
        apart=(("gate", 1),),
    ),
    "self_gate": Kind(lambda net, x: x * torch.sigmoid(net.f(x)), layers("f"), apart=(("gate", 1),)),
    "parallel_branches": Kind(
        lambda net, x: F.relu(net.f(x)) + F.relu(net.tail(x)),
        lambda form: {**tail(form), "f": form.layer()},
        apart=(("fusion", 1),),
    ),
    "inception": Kind(
        lambda net, x: cat(net, F.relu(net.f(x)), F.relu(net.tail(x)), torch.tanh(x)),
        lambda form: {**joined(3)(form), "f": form.layer()},
        apart=(("fusion", 1),),
    ),
    "activated_shortcut": Kind(lambda net, x: torch.tanh(x) + net.tail(x), tail, apart=(("fusion", 1),)),
    "selective_kernel": Kind(selected, layers("f", "g", "h"), apart=(("fusion", 2), ("gate", 2))),
    "foldable": Kind(lambda net, x: net.f(x) + net.g(x), layers("f", "g"), apart=(("foldable", 1),)),
    # skips
    "residual": Kind(lambda net, x: net.light(x) + branch(net, x), tail, (("add/*", 1),), inside=True),
    "post_activation": Kind(
        lambda net, x: F.relu(branch(net, x).add_(net.light(x)), inplace=True), tail, (("add/*", 1),), inside=True
    ),
    "difference": Kind(lambda net, x: net.light(x) - branch(net, x), tail, (("add/*", 1),), inside=True),
    "stacked": Kind(
        lambda net, x: torch.stack((branch(net, x), net.light(x))).sum(0), tail, (("add/*", 1),), inside=True
    ),
    "two_branches": Kind(
        lambda net, x: net.light(x) + branch(net, x) + net.second(x),
        lambda form: {**tail(form), "second": form.heavy()},
        (("add/*", 1),),
        inside=True,
    ),
    "gated_branch": Kind(
        lambda net, x: net.light(x) + branch(net, x) * torch.sigmoid(net.f(x)),
        lambda form: {**tail(form), "f": form.layer()},
        (("add/*", 1),),
        (("gate", 1),),
        inside=True,
    ),
    "joined": Kind(lambda net, x: cat(net, net.light(x), branch(net, x)), joined(), (("concat/*", 1),), inside=True),
    "dense": Kind(
        dense,
        lambda form: {
            **joined(4)(form),
            **{name: form.layer(i + 1) for i, name in enumerate(("f", "g", "h"))},
        },
        (("concat/identity", 3 * 4 // 2),),
    ),
    "highway": Kind(
        lambda net, x: (t := torch.sigmoid(net.f(x))) * torch.relu(branch(net, x)) + (1 - t) * x,
        lambda form: {**tail(form), "f": form.layer()},
        (("gated/gated", 1),),
        inside=True,
    ),
    "lerp": Kind(
        lambda net, x: torch.lerp(x, torch.tanh(branch(net, x)), torch.sigmoid(net.f(x))),
        lambda form: {**tail(form), "f": form.layer()},
        (("gated/gated", 1),),
        inside=True,
    ),
    "blended": Kind(
        lambda net, x: (y := torch.tanh(branch(net, x))) + torch.sigmoid(net.f(x)) * (x - y),
        lambda form: {**tail(form), "f": form.layer()},
        (("gated/gated", 1),),
        inside=True,
    ),
    "long": Kind(
        lambda net, x: cat(net, x, F.interpolate(F.relu(branch(net, F.max_pool2d(x, 2))), scale_factor=2.0)),
        joined(),
        (("concat/identity", 1),),
        inside=True,
        forms=("image",),
    ),
    "lateral": Kind(
        lambda net, x: net.f(x) + F.interpolate(branch(net, F.avg_pool2d(x, 2)), scale_factor=2.0),
        lambda form: {**tail(form), "f": form.layer(1, 1, 1)},
        (("add/projection", 1),),
        inside=True,
        forms=("image",),
    ),
    "lstm": Kind(
        lambda net, x: net.cell(x)[0],
        lambda form: {"cell": nn.LSTM(form.channels, form.channels, batch_first=True)},
        (("gated/gated", 1),),
        forms=("tokens",),
    ),
    "gru_cell": Kind(
        stepped,
        lambda form: {"cell": nn.GRUCell(form.channels, form.channels), "out": form.layer()},
        (("gated/gated", TOKENS.shape[1] - 1),),
        (("fusion", 1),),  # the steps, side by side
        forms=("tokens",),
    ),
}
# Their branch goes down in resolution and up again; so does any other's with one of these inside.
LONG = ("long", "lateral")
UP = (*LONG, "around")


def built(piece: Piece, form: Form) -> nn.Module:
    """The module of a piece."""
    kind = KINDS[piece.kind]
    _, light = LIGHT[piece.shortcut]
    net = Net(kind.forward, **kind.modules(form))
    net.dim, net.positions = form.dim, (2, 3) if form is IMAGE else (1,)  # type: ignore[assignment]
    net.gamma = nn.Parameter(torch.ones(()))
    net.inside = network(piece.inside, form)
    if piece.shortcut == "projected":
        net.p = form.layer(1, 1, 1)
    net.light = lambda x: light(net, x)  # type: ignore[assignment]
    return net


def network(pieces: tuple[Piece, ...], form: Form) -> nn.Module:
    return nn.Sequential(*(built(piece, form) for piece in pieces))


def planted(pieces: tuple[Piece, ...]) -> tuple[Counter[str], Counter[str], int]:
    """The skips by kind, what is listed apart by reason, and how many of the skips are long."""
    skips: Counter[str] = Counter()
    apart: Counter[str] = Counter()
    long = 0
    for piece in pieces:
        kind = KINDS[piece.kind]
        skips.update({name.replace("*", LIGHT[piece.shortcut][0]): count for name, count in kind.skips})
        apart.update(dict(kind.apart))
        inner = planted(piece.inside) if kind.inside else (Counter(), Counter(), 0)
        is_long = piece.kind in LONG or (kind.inside and any(map(goes_up, piece.inside)))
        skips, apart, long = skips + inner[0], apart + inner[1], long + inner[2] + is_long
    return skips, apart, long


def goes_up(piece: Piece) -> bool:
    return piece.kind in UP or (KINDS[piece.kind].inside and any(map(goes_up, piece.inside)))


@st.composite
def plans(draw: st.DrawFn, form: Form, depth: int = 2) -> tuple[Piece, ...]:
    """One to three pieces, those with a branch with up to as many inside."""
    names = [name for name, kind in KINDS.items() if form.name in kind.forms and (depth or not kind.inside)]
    pieces = []
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(names))
        inside: tuple[Piece, ...] = ()
        if KINDS[name].inside and draw(st.booleans()):
            inside = draw(plans(form, depth - 1))
        shortcut = (
            draw(st.sampled_from(sorted(LIGHT))) if any("*" in skip for skip, _ in KINDS[name].skips) else "identity"
        )
        pieces.append(Piece(name, inside, shortcut))
    return tuple(pieces)
