"""One row a network: what the definition of a skip connection says that it has, counted from its own plan.

Every expected number is blocks × skips a block, or a product over blocks, from the network's published table;
none is copied from what `find` or `census` returned. Nonlinearities are counted as activations, max-pools and
products of data (attention, squeeze-and-excitation); norms are not.
"""

import functools
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skiplab
from networks import (
    Attention,
    Autocast,
    BasicBlock,
    Block,
    Checkpointed,
    Counting,
    DenseBlock,
    Encoded,
    Frozen,
    Fusion,
    Highway,
    Inception,
    Net,
    Recurrent,
    RepVgg,
    Res2Net,
    Transformer,
    TwoInputs,
    UNet,
    around,
    conv,
    heavy,
    linear,
    masked,
    tanh_gelu,
)
from skiplab.models import resnet
from skiplab.program import Program
from skiplab.skips import Skips

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A network and what is known of it.

    Attributes:
        build: makes the network.
        inputs: makes its (args, kwargs).
        skips: number of skips by "combine/shortcut".
        census: (paths, fewest nonlinearities, most) of the first output; None where no short formula gives them.
        apart: how many foldable sums are listed apart.
        meta: without values, where the network is large and only its structure is of interest.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    skips: Mapping[str, int] = field(default_factory=dict)
    census: tuple[int, int, int] | None = None
    apart: int = 0
    meta: bool = False


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


def residual(blocks: int, always: int, each: int) -> tuple[int, int, int]:
    """Census of `blocks` residual blocks: `always` nonlinearities on every path, `each` on a branch alone."""
    return 2**blocks, always, always + blocks * each


# Stem: ReLU and max-pool; a ReLU after every merge; one (basic) or two (bottleneck) more on a branch.
TORCHVISION = [
    Case("resnet18", torchvision("resnet18"), images(32), add(5, 3), residual(8, 2 + 8, 1)),
    Case("resnet34", torchvision("resnet34"), images(224), add(13, 3), residual(16, 2 + 16, 1), meta=True),
    Case("resnet50", torchvision("resnet50"), images(224), add(12, 4), residual(16, 2 + 16, 2), meta=True),
    Case("resnet101", torchvision("resnet101"), images(224), add(29, 4), residual(33, 2 + 33, 2), meta=True),
    Case("resnext50", torchvision("resnext50_32x4d"), images(64), add(12, 4), residual(16, 18, 2), meta=True),
    Case("wide_resnet50", torchvision("wide_resnet50_2"), images(64), add(12, 4), residual(16, 18, 2), meta=True),
    # One skip a tensor read again: L(L+1)/2 for each block. ReLUs: stem, 3 transitions, the last; 2 a layer.
    Case(
        "densenet121",
        torchvision("densenet121"),
        images(224),
        concat(sum(n * (n + 1) // 2 for n in (6, 12, 24, 16))),
        residual(6 + 12 + 24 + 16, 1 + 1 + 3 + 1, 2),
        meta=True,
    ),
    # No skips: ReLUs and max-pools, 8 + 5 + 2 and 13 + 5 + 2.
    Case("vgg11", torchvision("vgg11"), images(224), census=(1, 15, 15), meta=True),
    Case("vgg16", torchvision("vgg16"), images(224), census=(1, 20, 20), meta=True),
    # Eight fire modules: squeeze, then two ways to expand.
    Case("squeezenet", torchvision("squeezenet1_1"), images(64), census=(2**8, 1 + 3 + 16 + 1, 1 + 3 + 16 + 1)),
    # Nine modules of four ways with one or two ReLUs; stem of 3 ReLUs and 2 max-pools; 2 max-pools between.
    Case(
        "googlenet",
        torchvision("googlenet", init_weights=False, transform_input=True),
        images(64),
        census=(4**9, 7 + 9, 7 + 18),
    ),
    # Modules A (×3), B, C (×4), D, E (×2, whose wide branches split in two again); stem 5 ReLUs, 2 max-pools.
    Case(
        "inception_v3",
        torchvision("inception_v3", init_weights=False, transform_input=True),
        images(299),
        census=(4**3 * 3 * 4**4 * 3 * 6**2, 7 + 3 + 1 + 4 + 1 + 2, 7 + 3 * 3 + 3 + 4 * 5 + 4 + 2 * 3),
        meta=True,
    ),
    Case("convnext_tiny", torchvision("convnext_tiny"), images(32), add(3 + 3 + 9 + 3), residual(18, 0, 1)),
    Case("vit_b_16", torchvision("vit_b_16"), images(224), add(2 * 12), residual(24, 0, 1), meta=True),
    Case("swin_t", torchvision("swin_t"), images(64), add(2 * (2 + 2 + 6 + 2)), residual(24, 0, 1), meta=True),
    # 16 blocks of two ReLU6 and one of one; those with stride 1 and equal widths have a skip: 10.
    Case("mobilenet_v2", torchvision("mobilenet_v2"), images(32), add(10), residual(10, 1 + 1 + 12 + 1, 2)),
    Case("mnasnet", torchvision("mnasnet0_5"), images(32), add(2 + 2 + 2 + 1 + 3), residual(10, 2 + 12 + 1, 2)),
    # Skips in 6 of 11 blocks: one with 2 nonlinearities, five with expansion, depthwise and gate.
    Case(
        "mobilenet_v3_small",
        torchvision("mobilenet_v3_small"),
        images(32),
        add(6),
        (2**6, 33 - 2 - 5 * 3, 33),
    ),
    # Repeats after the first of 1, 2, 2, 3, 3, 4, 1; a branch: two SiLUs and the gate. The first has one SiLU.
    Case("efficientnet_b0", torchvision("efficientnet_b0"), images(32), add(9), residual(9, 1 + 2 + 6 * 3 + 1, 3)),
    Case("regnet_x", torchvision("regnet_x_400mf"), images(32), add(22 - 4, 4), residual(22, 1 + 22, 2)),
    Case("regnet_y", torchvision("regnet_y_400mf"), images(32), add(16 - 4, 4), residual(16, 1 + 16, 3)),
    # Units of stride 1 keep half of the channels: 3 + 7 + 3. Those of stride 2 have two branches of 1 and 2 ReLUs.
    Case(
        "shufflenet_v2",
        torchvision("shufflenet_v2_x0_5"),
        images(64),
        concat(resample=13),
        (2**16, 3 + 3, 3 + 13 * 2 + 3 * 2),
    ),
]

TIMM = [
    # Pre-activation: what stands before a stage's first block also stands before its projection.
    Case("timm_resnetv2", timm("resnetv2_50"), images(32), add(12, 4), (2**16, 1 + 1 + 4, 1 + 1 + 16 * 3)),
    Case("timm_convnext", timm("convnext_atto"), images(32), add(2 + 2 + 6 + 2), residual(12, 0, 1)),
    Case("timm_vit", timm("vit_tiny_patch16_224", img_size=32), images(32), add(24), residual(24, 0, 1)),
    # Two heads, of which the mean is returned.
    Case("timm_deit", timm("deit_tiny_distilled_patch16_224", img_size=32), images(32), add(24), (2 * 2**24, 0, 24)),
    Case("timm_mixer", timm("mixer_s32_224", img_size=64), images(64), add(2 * 8), residual(16, 0, 1)),
    # 22 blocks of 3 branches, of which the 5 that change the resolution lack the identity.
    Case("timm_repvgg", timm("repvgg_a0"), images(32), census=(3**17 * 2**5, 22, 22), apart=17),
    # Residual blocks alone; the sums between resolutions are fusion. Projections: first stage, four heads.
    Case("timm_hrnet", timm("hrnet_w18_small"), images(64), add(2 * (2 + 3 + 4), 1 + 4)),
    # Per block of four groups: one group is handed on; in a stage's other blocks the next group joins a
    # convolution's result twice, and both results are read again by the concatenation.
    Case(
        "timm_res2net",
        timm("res2net50_26w_4s"),
        images(32),
        {**add(12, 4, 2 * 12), **concat(2 * 12, 16)},
    ),
    # A half of the channels past each stage, and a skip in each block.
    Case("timm_cspresnet", timm("cspresnet50"), images(32), {**add(3 + 3 + 5 + 2), **concat(resample=4)}),
]

SMALL: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
GPT: dict[str, Any] = {"vocab_size": 99, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
TOKENS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

# Two layers each; RMSNorm is written out in them, and its x · rsqrt(…) is a product of data.
TRANSFORMERS = [
    Case("bert", transformers("BertModel", "BertConfig", **SMALL), tokens(), add(4), residual(4, 0, 1)),
    Case(
        "bert_masked",
        transformers("BertModel", "BertConfig", **SMALL, attn_implementation="eager"),
        lambda: (tokens()()[0], {"attention_mask": torch.ones(2, 8, dtype=torch.long)}),
        add(4),
        residual(4, 0, 1),
    ),
    Case("gpt2", transformers("GPT2LMHeadModel", "GPT2Config", **GPT, **TOKENS), tokens(use_cache=False), add(4)),
    Case(
        "llama",
        transformers("LlamaForCausalLM", "LlamaConfig", **SMALL, num_key_value_heads=1),
        tokens(use_cache=False),
        add(4),
        residual(4, 1, 2),
    ),
    # Two skips in an encoder's layer, three in a decoder's.
    Case(
        "t5",
        transformers(
            "T5ForConditionalGeneration",
            "T5Config",
            vocab_size=99,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
        ),
        lambda: ((), {"input_ids": tokens()()[0][0], "decoder_input_ids": tokens()()[0][0], "use_cache": False}),
        add(2 * 2 + 2 * 3),
    ),
    # Attention and MLP in parallel: one skip with two branches a layer.
    Case(
        "gpt_neox",
        transformers("GPTNeoXModel", "GPTNeoXConfig", **SMALL),
        tokens(use_cache=False),
        add(2),
        (3**2, 0, 2),
    ),
]

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
    Case("fusion", Fusion, IMAGE, census=(2, 2, 3)),
    Case("inception", Inception, IMAGE, census=(4, 1, 2)),
    Case("repvgg", RepVgg, IMAGE, census=(3, 1, 1), apart=1),
    Case("out_of_place", lambda: BasicBlock(inplace=False), IMAGE, add(1), residual(1, 1, 1)),
    Case("in_place", lambda: BasicBlock(inplace=True), IMAGE, add(1), residual(1, 1, 1)),
    Case("called_twice", lambda: Net(lambda net, x: net.b(net.b(x)), b=Block()), VECTOR, add(2), residual(2, 0, 1)),
    Case("checkpoint", lambda: Checkpointed(reentrant=False), VECTOR, add(2), residual(2, 0, 1)),
    Case("checkpoint_reentrant", lambda: Checkpointed(reentrant=True), VECTOR, add(2), residual(2, 0, 1)),
    Case("frozen", Frozen, VECTOR, add(2), residual(2, 0, 1)),
    Case("lstm", Recurrent, SEQUENCE, add(1), residual(1, 0, 1)),
    Case("counting", Counting, VECTOR, add(1)),
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
    ),
    Case(
        "squeeze_excited",
        lambda: Net(lambda net, x: x + (f := net.f(x)) * torch.sigmoid(net.g(f)), f=heavy(), g=linear()),
        VECTOR,
        add(1),
        residual(1, 0, 2),
    ),
    # No skips
    Case("gate", lambda: Net(lambda net, x: x * torch.sigmoid(net.g(x)), g=heavy()), VECTOR, census=(1, 1, 1)),
    Case("tanh_gelu", lambda: Net(lambda net, x: tanh_gelu(net.a(x)), a=linear()), VECTOR, census=(1, 1, 1)),
    Case("activated_shortcut", lambda: around(lambda x, f: F.relu(x) + f), VECTOR, census=(2, 1, 1)),
    Case(
        "equal_weights",
        lambda: Net(lambda net, x: net.a(x) + F.relu(net.b(x)), a=linear(), b=linear()),
        VECTOR,
        census=(2, 0, 1),
    ),
    Case(
        "two_weights",
        lambda: Net(
            lambda net, x: net.b(net.a(x)) + net.f(F.relu(net.g(x))), a=linear(), b=linear(), f=heavy(), g=linear()
        ),
        VECTOR,
        census=(2, 0, 2),
    ),
    Case("weightless_branch", lambda: Net(lambda net, x: net.a(x + torch.tanh(x)), a=linear()), VECTOR),
    Case(
        "two_embeddings",
        lambda: Net(lambda net, x: net.a(x) + net.b(x), a=nn.Embedding(9, 8), b=nn.Embedding(9, 8)),
        tokens(),
        census=(2, 0, 0),
    ),
    Case(
        "broadcast",
        lambda: Net(lambda net, x: mean(x) + net.f(x), f=heavy()),
        VECTOR,
        census=(2, 0, 1),
    ),
]

# He et al.: depth 6n + 2, two weight layers a block, three stages; option A pads where a stage begins.
OURS = [
    Case("resnet20", lambda: resnet(20, width=4), images(16), add(7, resample=2), residual(9, 1 + 9, 1)),
    Case("resnet110", lambda: resnet(110), images(32), add(52, resample=2), residual(54, 1 + 54, 1), meta=True),
    Case(
        "resnet110_pre",
        lambda: resnet(110, placement="pre"),
        images(32),
        add(52, resample=2),
        residual(54, 1, 2),
        meta=True,
    ),
    Case("resnet20_b", lambda: resnet(20, width=4, skip="B"), images(16), add(7, 2), residual(9, 1 + 9, 1)),
    Case("resnet20_c", lambda: resnet(20, width=4, skip="C"), images(16), add(0, 9), residual(9, 1 + 9, 1)),
    Case("plain20", lambda: resnet(20, width=4, skip=None), images(16), census=(1, 19, 19)),
    # With one weight layer a block and no activation in it, x + BN(conv(x)) is one convolution in disguise.
    Case("resnet20_span1", lambda: resnet(20, width=4, span=1), images(16), {}, residual(18, 19, 0), apart=18),
    Case(
        "resnet20_span1_pre",
        lambda: resnet(20, width=4, span=1, placement="pre"),
        images(16),
        add(16, resample=2),
        residual(18, 1, 1),
    ),
]

# What Skiplab gets wrong today, with the truth in the row and the reason here.
WRONG: dict[str, tuple[Case, str]] = {
    case.name: (case, reason)
    for case, reason in [
        (Case("highway", Highway, VECTOR, {"gated/gated": 1}), "`find` does not look for gated sums yet"),
        (
            Case(
                "gated_lerp",
                lambda: Net(lambda net, x: torch.lerp(x, net.f(x), torch.sigmoid(net.g(x))), f=heavy(), g=linear()),
                VECTOR,
                {"gated/gated": 1},
            ),
            "`find` does not look for gated sums yet",
        ),
        (
            Case("autocast", Autocast, VECTOR, add(1), residual(1, 0, 1)),
            "a block under autocast is one unknown operator in the exported graph",
        ),
    ]
}

CASES: dict[str, Case] = {
    case.name: case for case in [*TORCHVISION, *TIMM, *TRANSFORMERS, *BY_HAND, *OURS, *(c for c, _ in WRONG.values())]
}
RIGHT = [name for name in CASES if name not in WRONG]
NUMERIC = [name for name in RIGHT if not CASES[name].meta]
# Networks whose training graph differs by more than batch statistics: dropout, dropped paths, extra heads.
TRAINED = [
    *(c.name for c in (*BY_HAND, *OURS) if not c.meta),
    *("resnet18", "googlenet", "convnext_tiny", "efficientnet_b0", "timm_deit", "timm_repvgg", "bert", "t5"),
]
