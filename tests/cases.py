"""One row a network: what the definition of a skip connection says that it has, counted from its own plan.

Every expected number is blocks × skips a block, or a product over blocks, from the network's published table;
none is copied from what `find` or `census` returned. Nonlinearities are counted as activations, max-pools and
products of data (attention, squeeze-and-excitation); norms are not.
"""

import functools
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skiplab
from case import Case, add, concat, floats, gated, images, mean, residual, tokens
from cases_ours import OURS
from cases_segmentation import SEGMENTATION
from cases_timm import TIMM
from cases_torchvision import TORCHVISION
from cases_transformers import TRANSFORMERS
from networks import (
    Attention,
    BasicBlock,
    Block,
    Cells,
    Checkpointed,
    Counting,
    DenseBlock,
    Encoded,
    Frozen,
    Fusion,
    Highway,
    HyperConnections,
    Inception,
    MinGru,
    Net,
    Recurrent,
    RepVgg,
    Res2Net,
    SelectiveKernel,
    SteppedMinGru,
    Transformer,
    TwoInputs,
    UNet,
    WrittenGru,
    WrittenLstm,
    WrittenRnn,
    around,
    conv,
    heavy,
    linear,
    masked,
    tanh_gelu,
)
from skiplab.analysis.skips import Skips
from skiplab.graph.program import Program


@dataclass(frozen=True)
class Captured:
    """A case's network before and after its capture."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    program: Program
    skips: Skips
    before: dict[str, Any]
    after: dict[str, Any]


def by_kind(skips: Skips) -> dict[str, int]:
    return dict(Counter(f"{skip.combine}/{skip.shortcut}" for skip in skips))


@functools.cache
def captured(name: str, train: bool = False) -> Captured:
    """The case's capture, done once for all tests."""
    case = CASES[name]
    torch.manual_seed(0)
    with warnings.catch_warnings(), torch.device("meta" if case.meta else "cpu"):
        warnings.simplefilter("ignore")  # other people's deprecations
        model, (args, kwargs) = case.build(), case.inputs()
        model.train()
        next(model.children()).eval()  # a mixture of modes, as after freezing a stem
        before = state(model)
        program = skiplab.capture(model, args, kwargs, train=train)
        return Captured(model, args, kwargs, program, skiplab.find(program), before, state(model))


def state(model: nn.Module) -> dict[str, Any]:
    """All that a capture could leave changed, as bits."""
    tensors = model.state_dict(keep_vars=True)
    return {
        "values": {name: _bits(tensor) for name, tensor in tensors.items()},
        "identity": {name: id(tensor) for name, tensor in tensors.items()},
        "gradients": {name: tensor.grad for name, tensor in tensors.items()},
        "learned": {name: tensor.requires_grad for name, tensor in tensors.items()},
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "random": zlib.crc32(torch.get_rng_state().numpy().tobytes()),
    }


def _bits(tensor: Tensor) -> int:
    return 0 if tensor.is_meta else zlib.crc32(tensor.detach().numpy().tobytes())


def fused(layers: nn.Module) -> nn.Module:
    return Net(lambda net, x: net.layers(x)[0], layers=layers)


VECTOR, SEQUENCE, IMAGE = floats((3, 8)), floats((2, 5, 8)), images(8, 4)

BY_HAND = [
    Case("mlp", lambda: nn.Sequential(heavy(), nn.ReLU(), heavy()), VECTOR, census=(1, 3, 3)),
    Case("block", Block, VECTOR, add(1), residual(1, 0, 1)),
    Case("post_norm", lambda: Transformer("post"), SEQUENCE, add(2), residual(2, 0, 1)),
    Case("pre_norm", lambda: Transformer("pre"), SEQUENCE, add(2), residual(2, 0, 1)),
    Case("parallel", lambda: Transformer("parallel"), SEQUENCE, add(1), (3, 0, 1)),
    Case("rotary", lambda: Attention(rotary=True), SEQUENCE, census=(1, 1, 1)),
    Case("pre_norm_rotary", lambda: Transformer("pre", rotary=True), SEQUENCE, add(2), residual(2, 0, 1)),
    Case("masked", masked, floats((2, 5, 8), (2, 1, 5, 5)), add(4)),
    Case("unet", UNet, IMAGE, concat(2), (3, 2, 7)),
    Case("dense_block", lambda: DenseBlock(4), IMAGE, concat(4 * 5 // 2), residual(4, 0, 1)),
    # The split's last group to the concatenation, its second into the sum, that sum's source to the concatenation.
    Case("res2net", Res2Net, IMAGE, {**add(1, resample=1), **concat(1, 1)}, (1 + 1 + 2 + 1, 0, 3)),
    Case("fusion", Fusion, IMAGE, census=(2, 2, 3), fusions=2),
    Case("inception", Inception, IMAGE, census=(4, 1, 2), fusions=1),
    Case("repvgg", RepVgg, IMAGE, census=(3, 1, 1), foldable=1),
    Case("out_of_place", lambda: BasicBlock(inplace=False), IMAGE, add(1), residual(1, 1, 1)),
    Case("in_place", lambda: BasicBlock(inplace=True), IMAGE, add(1), residual(1, 1, 1)),
    Case("called_twice", lambda: Net(lambda net, x: net.b(net.b(x)), b=Block()), VECTOR, add(2), residual(2, 0, 1)),
    Case("checkpoint", lambda: Checkpointed(reentrant=False), VECTOR, add(2), residual(2, 0, 1)),
    Case("checkpoint_reentrant", lambda: Checkpointed(reentrant=True), VECTOR, add(2), residual(2, 0, 1)),
    Case("frozen", Frozen, VECTOR, add(2), residual(2, 0, 1)),
    Case("lstm", Recurrent, SEQUENCE, {**add(1), **gated(1)}, residual(1, 0, 1)),
    Case("counting", Counting, VECTOR, add(1), fusions=1),
    Case(
        "dropout",
        lambda: Net(lambda net, x: net.b(net.d(x)), b=Block(), d=nn.Dropout(0.5)),
        VECTOR,
        add(1),
        residual(1, 0, 1),
    ),
    Case(
        "keywords",
        Encoded,
        lambda: ((torch.arange(10).reshape(2, 5),), {"extra": {"offset": torch.randn(2, 5, 8)}}),
        add(1),
        (2 * 2, 0, 1),
        fusions=1,
    ),
    Case(
        "two_inputs",
        lambda: TwoInputs(lambda net, x, y: net.b(x) + y, b=Block()),
        floats((3, 8), (3, 8)),
        add(1),
        (3, 0, 1),
    ),
    # A sum in other words
    Case("sub", lambda: around(lambda x, f: x - f), VECTOR, add(1), residual(1, 0, 1)),
    Case("negated", lambda: around(lambda x, f: f - x), VECTOR, add(resample=1), residual(1, 0, 1)),
    Case("rsub", lambda: around(lambda x, f: torch.rsub(f, x, alpha=2)), VECTOR, add(1), residual(1, 0, 1)),
    Case("add_", lambda: around(lambda x, f: f.add_(x)), VECTOR, add(1), residual(1, 0, 1)),
    Case("sum", lambda: around(lambda x, f: sum([x, f])), VECTOR, add(1), residual(1, 0, 1)),
    Case(
        "stack_sum",
        lambda: around(lambda x, f: torch.stack([x, f], -1).sum(-1)),
        VECTOR,
        add(1),
        residual(1, 0, 1),
    ),
    Case("twice", lambda: around(lambda x, f: x + x + f), VECTOR, add(1), residual(1, 0, 1)),
    Case("lerp", lambda: around(lambda x, f: torch.lerp(x, f, 0.3)), VECTOR, add(resample=1), residual(1, 0, 1)),
    Case(
        "addmm",
        lambda: Net(lambda net, x: torch.addmm(x, F.relu(net.a(x)), net.b.weight), a=linear(), b=linear()),
        VECTOR,
        add(1),
        residual(1, 0, 1),
    ),
    Case(
        "addcmul",
        lambda: Net(lambda net, x: torch.addcmul(x, net.a(x), net.b.bias, value=0.5), a=heavy(), b=linear()),
        VECTOR,
        add(1),
        residual(1, 0, 1),
    ),
    # Shortcuts
    Case("scaled", lambda: around(lambda x, f: 0.5 * x + 2 * f), VECTOR, add(resample=1), residual(1, 0, 1)),
    Case("rolled", lambda: around(lambda x, f: x.flip(-1).roll(1, -1) + f), VECTOR, add(1), residual(1, 0, 1)),
    Case(
        "padded",
        lambda: Net(lambda net, x: F.pad(x[..., ::2, ::2], (0, 0, 0, 0, 2, 2)) + net.f(x), f=conv(4, 8, stride=2)),
        IMAGE,
        add(resample=1),
        residual(1, 0, 1),
    ),
    Case(
        "pooled",
        lambda: Net(lambda net, x: F.avg_pool2d(x, 2) + net.f(x), f=conv(stride=2)),
        IMAGE,
        add(resample=1),
        residual(1, 0, 1),
    ),
    Case(
        "upsampled",
        lambda: Net(
            lambda net, x: torch.cat((F.interpolate(x, scale_factor=2.0), net.f(x)), 1),
            f=nn.Sequential(nn.Upsample(scale_factor=2), conv()),
        ),
        IMAGE,
        concat(resample=1),
        residual(1, 0, 1),
    ),
    Case(
        "projected",
        lambda: Net(lambda net, x: net.p(x) + net.f(x), f=heavy(), p=linear()),
        VECTOR,
        add(projection=1),
        residual(1, 0, 1),
    ),
    Case(
        "softmax_head",
        lambda: around(lambda x, f: F.softmax(x + f, -1)),
        VECTOR,
        add(1),
        residual(1, 1, 1),
    ),
    # A sum of means that is itself added to something larger is a merge of its own.
    Case(
        "narrow_sum",
        lambda: Net(lambda net, x: mean(x) + mean(net.f(x)) + net.g(x), f=heavy(), g=heavy()),
        VECTOR,
        add(resample=1),
        (3, 0, 1),
        fusions=1,
    ),
    Case(
        "squeeze_excited",
        lambda: Net(lambda net, x: x + (f := net.f(x)) * torch.sigmoid(net.g(f)), f=heavy(), g=linear()),
        VECTOR,
        add(1),
        residual(1, 0, 2),
        gates=1,
    ),
    # Gated sums
    Case("highway", Highway, VECTOR, gated(1), (2, 1, 2)),
    Case(
        "gated_lerp",
        lambda: Net(lambda net, x: torch.lerp(x, net.f(x), torch.sigmoid(net.g(x))), f=heavy(), g=linear()),
        VECTOR,
        gated(1),
    ),
    # A step of each form is one skip, but for the first, whose state is zero. Sums of input and state are fusion:
    # three a step for a GRU (at the first there is no state to add), one for an LSTM. A GRU has its reset gate, an LSTM
    # its output gate; the first step's product of gate and candidate is a gate too, with no sum to belong to.
    *(
        Case(f"written_gru_{name}", lambda form=form: WrittenGru(form), SEQUENCE, gated(4), gates=1 + 4, fusions=3 * 4)
        for name, form in {
            "convex": lambda n, h, z: (1 - z) * n + z * h,
            "cho": lambda n, h, z: z * h + (1 - z) * n,
            "blend": lambda n, h, z: n + z * (h - n),
            "reversed": lambda n, h, z: z * (h - n) + n,
            "minus": lambda n, h, z: h - (1 - z) * (h - n),
            "lerp": torch.lerp,
        }.items()
    ),
    Case("written_lstm", WrittenLstm, SEQUENCE, gated(4), gates=5 + 1, fusions=4),
    Case("written_rnn", WrittenRnn, SEQUENCE, fusions=4),
    Case("min_gru", MinGru, SEQUENCE, gated(4), gates=1),
    Case("min_gru_halves", lambda: MinGru(fused=True), SEQUENCE, gated(4), gates=1),
    Case("min_gru_halved_steps", lambda: SteppedMinGru(fused=True), SEQUENCE, gated(4), gates=1),
    Case("lstm_cell", lambda: Cells(nn.LSTMCell(8, 8)), SEQUENCE, gated(4)),
    Case("gru_cell", lambda: Cells(nn.GRUCell(8, 8)), SEQUENCE, gated(4)),
    Case("rnn_cell", lambda: Cells(nn.RNNCell(8, 8)), SEQUENCE),
    # One record a layer and direction
    Case("lstm_2_both", lambda: fused(nn.LSTM(8, 8, 2, bidirectional=True, batch_first=True)), SEQUENCE, gated(2 * 2)),
    Case("gru_3", lambda: fused(nn.GRU(8, 8, 3)), SEQUENCE, gated(3)),
    Case("rnn_2", lambda: fused(nn.RNN(8, 8, 2)), SEQUENCE),
    Case("selective_kernel", SelectiveKernel, VECTOR, fusions=2, gates=2),
    # Unknown, beside the lanes that are stacked at the start
    Case("hyper_connections", lambda: HyperConnections(dynamic=False), VECTOR, unknown=1, fusions=None),
    Case("dynamic_hyper_connections", lambda: HyperConnections(dynamic=True), VECTOR, unknown=1, fusions=None),
    Case(
        "einsum_lanes",
        lambda: Net(
            lambda net, x: (
                torch.einsum("ij,njc->nic", net.mix.weight, y := x.unflatten(1, (2, 4)))
                + net.f(y.flatten(1)).unflatten(1, (2, 4))
            ),
            f=heavy(),
            mix=linear(2, 2),
        ),
        VECTOR,
        unknown=1,
    ),
    Case(
        "summed_shortcut",
        lambda: Net(lambda net, x: torch.cat((0.5 * x + 0.5 * x.flip(-1), net.f(x)), -1), f=heavy()),
        VECTOR,
        unknown=1,
    ),
    # No skips
    Case("gate", lambda: Net(lambda net, x: x * torch.sigmoid(net.g(x)), g=heavy()), VECTOR, census=(1, 1, 1), gates=1),
    Case("tanh_gelu", lambda: Net(lambda net, x: tanh_gelu(net.a(x)), a=linear()), VECTOR, census=(1, 1, 1)),
    Case("activated_shortcut", lambda: around(lambda x, f: F.relu(x) + f), VECTOR, census=(2, 1, 1), fusions=1),
    Case(
        "equal_weights",
        lambda: Net(lambda net, x: net.a(x) + F.relu(net.b(x)), a=linear(), b=linear()),
        VECTOR,
        census=(2, 0, 1),
        fusions=1,
    ),
    Case(
        "two_weights",
        lambda: Net(
            lambda net, x: net.b(net.a(x)) + net.f(F.relu(net.g(x))), a=linear(), b=linear(), f=heavy(), g=linear()
        ),
        VECTOR,
        census=(2, 0, 2),
        fusions=1,
    ),
    Case("weightless_branch", lambda: Net(lambda net, x: net.a(x + torch.tanh(x)), a=linear()), VECTOR),
    Case(
        "two_embeddings",
        lambda: Net(lambda net, x: net.a(x) + net.b(x), a=nn.Embedding(9, 8), b=nn.Embedding(9, 8)),
        tokens(),
        census=(2, 0, 0),
        foldable=1,
    ),
    Case("broadcast", lambda: Net(lambda net, x: mean(x) + net.f(x), f=heavy()), VECTOR, census=(2, 0, 1), fusions=1),
]

CASES: dict[str, Case] = {
    case.name: case for case in [*TORCHVISION, *TIMM, *SEGMENTATION, *TRANSFORMERS, *BY_HAND, *OURS]
}
# What Skiplab gets wrong today, with the truth in the row and the reason here.
WRONG = {
    "rwkv": "the denominator's gates and what they weight are made of the same keys, like a function of one value",
}
NUMERIC = [name for name in CASES if not CASES[name].meta]
# Networks whose training graph differs by more than batch statistics: dropout, dropped paths, extra heads.
TRAINED = [
    *(c.name for c in (*BY_HAND, *OURS) if not c.meta),
    *("resnet18", "googlenet", "convnext_tiny", "efficientnet_b0", "timm_deit", "timm_repvgg", "bert", "t5"),
]
