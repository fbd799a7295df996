"""Rows of our own models (`skiplab.models`); every number follows from blocks × skips a block."""

from typing import Any

import torch
from torch import nn

from case import Case, Inputs, add, concat, floats, gated, images, residual
from skiplab.models import (
    densenet,
    gru,
    highway,
    highway_rnn,
    lstm,
    min_gru,
    mlp,
    residual_rnn,
    resmlp,
    resnet,
    rnn,
    transformer_decoder,
    transformer_encoder,
    unet,
    vit,
    vit_b_16,
    wide_resnet,
)

Census = tuple[int, int, int]  # paths, fewest nonlinearities, most

# He et al.: depth 6n + 2, two weight layers a block, three stages; option A pads where a stage begins.
RESNETS = [
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
    Case("resnet20_span1", lambda: resnet(20, width=4, span=1), images(16), {}, residual(18, 19, 0), foldable=18),
    Case(
        "resnet20_span1_pre",
        lambda: resnet(20, width=4, span=1, placement="pre"),
        images(16),
        add(16, resample=2),
        residual(18, 1, 1),
    ),
]


def small_encoder(**options: Any) -> nn.Module:
    return transformer_encoder(2, width=8, heads=2, **options)


def small_decoder(**options: Any) -> nn.Module:
    return transformer_decoder(2, width=8, heads=2, **options)


SEQUENCE = floats((2, 5, 1))


def tokens() -> Inputs:
    return (torch.arange(10).reshape(2, 5) % 7,), {}


# A layer has one skip around attention (a product of data) and one around the MLP (an activation), or one around both.
TRANSFORMERS = [
    Case("vit_pre", lambda: vit(depth=3, width=8, heads=2), images(8, 1), add(3 * 2), residual(6, 0, 1)),
    Case("vit_post", lambda: vit(depth=3, placement="post", width=8, heads=2), images(8, 1), add(6), residual(6, 0, 1)),
    Case(
        "vit_parallel",
        lambda: vit(depth=3, placement="parallel", width=8, heads=2),
        images(8, 1),
        add(3),
        (3**3, 0, 3),
    ),
    Case("vit_plain", lambda: vit(depth=3, skip=False, width=8, heads=2), images(8, 1), census=(1, 6, 6)),
    Case("our_vit_b_16", vit_b_16, images(224), add(12 * 2), residual(24, 0, 1), meta=True),
    Case("encoder_pre", small_encoder, SEQUENCE, add(4), residual(4, 0, 1)),
    Case(
        "encoder_tokens",
        lambda: small_encoder(vocabulary=7, positions="sinusoidal", readout="steps"),
        tokens,
        add(4),
        residual(4, 0, 1),
    ),
    Case(
        "encoder_post_causal",
        lambda: small_encoder(placement="post", activation="relu", causal=True, readout="last"),
        SEQUENCE,
        add(4),
        residual(4, 0, 1),
    ),
    Case("encoder_plain", lambda: small_encoder(skip=False), SEQUENCE, census=(1, 4, 4)),
    # A path from the memory starts in a layer's second attention: after it are that layer's MLP and the layers above.
    Case(
        "decoder_pre",
        small_decoder,
        floats((2, 5, 1), (2, 3, 8)),
        add(2 * 3),
        (2**6 + 2**4 + 2, 0, 6),
    ),
    Case(
        "decoder_parallel",
        lambda: small_decoder(placement="parallel"),
        floats((2, 5, 1), (2, 3, 8)),
        add(2),
        (4**2 + 4 + 1, 0, 2),
    ),
]

STEPS = 4
STEP = floats((2, STEPS, 1))


def met(*ways: tuple[Census, int]) -> Census:
    """Where ways meet, each from a value with its own paths and through so many nonlinearities since then."""
    return (
        sum(paths for (paths, _, _), _ in ways),
        min(fewest + more for (_, fewest, _), more in ways),
        max(most + more for (_, _, most), more in ways),
    )


INPUT: Census = (1, 0, 0)  # what the input gives to a step, from one weight layer for all steps
FIRST: Census = (1, 2, 2)  # a gate times a candidate, both functions of that alone: one way, at its lightest


def of_lstm(steps: int) -> Census:
    """Gates and candidates are made of a sum p; c′ = σ(p)·c + σ(p)·tanh(p), h = σ(p)·tanh(c)."""
    c = h = FIRST
    for _ in range(steps - 1):
        p = met((INPUT, 0), (h, 0))
        c = met((c, 1), (p, 2), (p, 2))
        h = met((p, 2), (c, 2))
    return h


def of_gru(steps: int) -> Census:
    """Gates are made of sums p, one each; n of a sum q with r·(U·h), r = σ(p); h′ = z·h + (1 − z)·tanh(q)."""
    h = FIRST
    for _ in range(steps - 1):
        p = met((INPUT, 0), (h, 0))
        q = met((INPUT, 0), (p, 2), (h, 1))
        h = met((p, 2), (h, 1), (p, 2), (q, 2))
    return h


def of_highway(steps: int) -> Census:
    """g and new are made of one sum p; h′ = (1 − σ(p))·h + σ(p)·tanh(p)."""
    h = FIRST
    for _ in range(steps - 1):
        p = met((INPUT, 0), (h, 0))
        h = met((p, 2), (h, 1), (p, 2))
    return h


# One skip a step but the first, whose state is zero; where a sum of input and state is no skip's, it is fusion. In a
# second layer the outputs of the first, put side by side, are fusion too: one more.
RECURRENT = [
    Case("unrolled_rnn", lambda: rnn(width=4), STEP, census=(STEPS, 1, STEPS), fusions=STEPS - 1),
    # Step t adds a way through its tanh to each of those before it, which stay: 1, 3, 7, … paths
    Case(
        "residual_rnn",
        lambda: residual_rnn(width=4),
        STEP,
        add(STEPS - 1),
        (2**STEPS - 1, 1, STEPS),
        fusions=STEPS - 1,
    ),
    Case(
        "residual_rnn_small_steps",
        lambda: residual_rnn("relu", step=0.5, width=4),
        STEP,
        add(STEPS - 1),
        (2**STEPS - 1, 1, STEPS),
        fusions=STEPS - 1,
    ),
    # Gates: an output gate a step, and the first step's product of gate and candidate, with no sum to belong to.
    Case(
        "unrolled_lstm",
        lambda: lstm(width=4),
        STEP,
        gated(STEPS - 1),
        of_lstm(STEPS),
        gates=STEPS + 1,
        fusions=STEPS - 1,
    ),
    # Reset gates of all steps but the first, and that same product.
    Case(
        "unrolled_gru",
        lambda: gru(width=4),
        STEP,
        gated(STEPS - 1),
        of_gru(STEPS),
        gates=STEPS,
        fusions=3 * (STEPS - 1),
    ),
    Case(
        "highway_rnn",
        lambda: highway_rnn(width=4),
        STEP,
        gated(STEPS - 1),
        of_highway(STEPS),
        gates=1,
        fusions=STEPS - 1,
    ),
    # No census: all is made of gates and candidates of the input alone, among which no ways meet.
    Case("unrolled_min_gru", lambda: min_gru(width=4), STEP, gated(STEPS - 1), gates=1),
    Case(
        "lstm_2_unrolled",
        lambda: lstm(width=4, layers=2),
        STEP,
        gated(2 * (STEPS - 1)),
        gates=2 * (STEPS + 1),
        fusions=2 * (STEPS - 1) + 1,
    ),
    Case(
        "gru_2_unrolled",
        lambda: gru(width=4, layers=2),
        STEP,
        gated(2 * (STEPS - 1)),
        gates=2 * STEPS,
        fusions=2 * 3 * (STEPS - 1) + 1,
    ),
    # Twins: the gates of what is written, and all output or reset gates
    Case("lstm_plain", lambda: lstm(skip=False, width=4), STEP, gates=2 * STEPS, fusions=STEPS - 1),
    Case("gru_plain", lambda: gru(skip=False, width=4), STEP, gates=2 * STEPS - 1, fusions=3 * (STEPS - 1)),
]


def variant(name: str, skips: dict[str, int], census: tuple[int, int, int], **options: Any) -> Case:
    """Of the 20-layer network: nine blocks, of which two change the shape."""
    return Case(f"resnet20_{name}", lambda: resnet(20, width=4, **options), images(16), skips, census)


PADDED = add(7, resample=2)
VARIANTS = [
    # He et al. 2016, Identity Mappings, Table 2: one ReLU ends each block, or none lies on the shortcuts and one
    # stands in the stem or at the end.
    variant("bn_after", PADDED, residual(9, 1 + 9, 1), placement="bn-after"),
    variant("relu_before", PADDED, residual(9, 1, 2), placement="relu-before"),
    variant("relu_only", PADDED, residual(9, 1, 2), placement="relu-only"),
    variant("relu_only_b", add(7, 2), residual(9, 1, 2), placement="relu-only", skip="B"),
    variant("no_last_relu", PADDED, residual(9, 0, 2), placement="pre", last="norm"),
    variant("no_last", PADDED, residual(9, 0, 2), placement="pre", last="none"),
    # Its Table 1. A gate is a product on its way, and one with a branch's ReLU too where it weights the branch.
    variant("half", add(resample=9), residual(9, 1 + 9, 1), combine="half"),
    variant("average", add(resample=9), residual(9, 1 + 9, 1), combine="average"),
    variant("gate", gated(9), residual(9, 1 + 9 + 9, 1), combine="gate"),
    variant("shortcut_gate", gated(9), residual(9, 1 + 9 + 9, 0), combine="shortcut-gate"),
    variant("shortcut_dropout", PADDED, residual(9, 1 + 9, 1), combine="shortcut-dropout"),
    variant("rezero", PADDED, residual(9, 1 + 9, 1), combine="rezero"),
    variant("skipinit", PADDED, residual(9, 1, 2), combine="rezero", norm=None, placement="pre"),
    variant("fixup", PADDED, residual(9, 1 + 9, 1), norm="fixup"),
    variant("fixup_pre_b", add(7, 2), residual(9, 1, 2), norm="fixup", placement="pre", skip="B"),
    variant("drop_path", PADDED, residual(9, 1 + 9, 1), drop_path=0.5),
    # Depth 6n + 4: three stages of n blocks, all of whose first ones change the shape.
    Case("wide16_2", lambda: wide_resnet(16, width=2, widening=2), images(16), add(3, 3), residual(6, 1, 2)),
    Case(
        "wide16_2_dropout",
        lambda: wide_resnet(16, width=2, widening=2, dropout=0.3),
        images(16),
        add(3, 3),
        residual(6, 1, 2),
    ),
]


def network(name: str, skips: dict[str, int], census: tuple[int, int, int], foldable: int = 0, **options: Any) -> Case:
    """Ten layers, and so four blocks of two."""
    return Case(
        f"mlp_{name}", lambda: mlp(10, 6, in_features=8, **options), floats((3, 8)), skips, census, 0, 0, foldable
    )


MLPS = [
    network("plain", {}, (1, 9, 9), skip=None),
    network("post", add(4), residual(4, 1 + 4, 1)),
    network("post_batch_norm", add(4), residual(4, 1 + 4, 1), norm="batch"),
    network("post_layer_norm", add(4), residual(4, 1 + 4, 1), norm="layer", activation="gelu"),
    network("pre", add(4), residual(4, 1, 2), placement="pre"),
    network("pre_layer_norm", add(4), residual(4, 1, 2), placement="pre", norm="layer"),
    network("pre_no_last", add(4), residual(4, 0, 2), placement="pre", last="none"),
    network("relu_before", add(4), residual(4, 1, 2), placement="relu-before", activation="tanh"),
    network("rezero", add(4), residual(4, 1 + 4, 1), combine="rezero"),
    network("gate", gated(4), residual(4, 1 + 4 + 4, 1), combine="gate"),
    network("drop_path", add(4), residual(4, 1, 2), placement="pre", drop_path=0.3),
    # Without activations a branch is one linear map, and its sum with the shortcut is another.
    network("linear", {}, residual(4, 0, 0), foldable=4, activation=None),
    network("plain_linear", {}, (1, 0, 0), skip=None, activation=None),
    # But layer norm is no linear map, though not counted as an activation.
    network("layer_norm_alone", add(4), residual(4, 0, 0), placement="pre", activation=None, norm="layer"),
    Case("mlp_span1", lambda: mlp(6, 6, in_features=8, span=1), floats((3, 8)), {}, residual(4, 5, 0), foldable=4),
    Case(
        "mlp_span3_pre",
        lambda: mlp(8, 6, in_features=8, span=3, placement="pre", last="none"),
        floats((3, 8)),
        add(2),
        residual(2, 0, 3),
    ),
    # Linear across patches, so foldable; one GELU across channels; nothing but linear maps on both shortcuts.
    Case("resmlp", lambda: resmlp(4, 8, 8, 4), images(8), add(4), (2**8, 0, 4), foldable=4),
]

# Huang et al.: L layers read what there is L(L + 1)/2 times again, transitions and the end included; a ReLU a layer, or
# two with bottlenecks. On every path two transitions (ImageNet: three, stem and max-pool) and the last ReLU.
DENSENETS = [
    Case("densenet13", lambda: densenet(13, growth=4), images(16), concat(3 * 6), residual(9, 3, 1)),
    Case(
        "densenet22_bc", lambda: densenet(22, bottleneck=True, growth=4), images(16), concat(3 * 6), residual(9, 3, 2)
    ),
    Case("densenet40", lambda: densenet(40), images(32), concat(3 * 12 * 13 // 2), residual(36, 3, 1), meta=True),
    Case("densenet121_ours", lambda: densenet(121, "imagenet"), images(64), concat(535), residual(58, 6, 2), meta=True),
    Case("densenet13_plain", lambda: densenet(13, growth=4, skip=False), images(16), census=(1, 12, 12)),
]

# Srivastava et al.: a gated skip a layer, and the product with the gate on either way; an activation in the first plain
# layer (convolutional form: in each of three).
HIGHWAYS = [
    Case("highway6", lambda: highway(6, width=8, in_features=12), floats((3, 12)), gated(4), residual(4, 1 + 4, 1)),
    Case("highway12_tanh", lambda: highway(12, activation="tanh"), floats((2, 784)), gated(10), residual(10, 11, 1)),
    Case("highway9_conv", lambda: highway(9, "conv", width=4), images(16), gated(5), residual(5, 3 + 5, 1)),
    Case("highway6_plain", lambda: highway(6, width=8, in_features=12, skip=False), floats((3, 12)), census=(1, 5, 5)),
]


def unet_census(skips: tuple[bool, ...], inside: int) -> tuple[int, int, int]:
    """One path over each long skip and one along the bottom, with a max-pool a level.

    The one over level k passes 2k + 2 pairs of convolutions. Each pair has `inside` ways: one of two ReLUs and, if it
    is residual, one of the second alone.
    """
    depth = len(skips)
    pairs = [2 * level + 2 for level in range(depth) if skips[level]] + [2 * depth + 1]
    pools = [level for level in range(depth) if skips[level]] + [depth]
    fewest = min(pair * (3 - inside) + pool for pair, pool in zip(pairs, pools, strict=True))
    return sum(inside**pair for pair in pairs), fewest, 2 * pairs[-1] + depth


# Ronneberger et al.: a long skip a level. Residual pairs of convolutions project where the width changes: on the way
# down always, on the way up after a concatenation.
UNETS = [
    Case("unet1", lambda: unet(depth=1, width=4), images(8, 1), concat(1), unet_census((True,), 1)),
    Case("unet3", lambda: unet(depth=3, width=4), images(16, 1), concat(3), unet_census((True,) * 3, 1)),
    Case(
        "unet3_any_size",
        lambda: unet(depth=3, width=4, norm=True),
        floats((2, 1, 13, 22)),
        concat(3),
        unet_census((True,) * 3, 1),
    ),
    Case(
        "unet3_add_any_size",
        lambda: unet(depth=3, width=4, combine="add"),
        floats((2, 1, 21, 9)),
        add(3),
        unet_census((True,) * 3, 1),
    ),
    Case(
        "unet3_middle_off",
        lambda: unet(depth=3, width=4, skips=(True, False, True)),
        images(16, 1),
        concat(2),
        unet_census((True, False, True), 1),
    ),
    Case("unet3_plain", lambda: unet(depth=3, width=4, skips=False), images(16, 1), {}, unet_census((False,) * 3, 1)),
    Case(
        "unet3_residual",
        lambda: unet(depth=3, width=4, residual=True, norm=True),
        images(16, 1),
        {**concat(3), **add(projection=4 + 3)},
        unet_census((True,) * 3, 2),
    ),
    Case(
        "unet3_add_residual",
        lambda: unet(depth=3, width=4, combine="add", residual=True, skips=(False, True, True)),
        images(16, 1),
        add(2 + 3, projection=4),
        unet_census((False, True, True), 2),
    ),
    Case("unet_paper", unet, images(64, 1), concat(4), unet_census((True,) * 4, 1), meta=True),
]

OURS = [*RESNETS, *VARIANTS, *MLPS, *DENSENETS, *HIGHWAYS, *UNETS, *TRANSFORMERS, *RECURRENT]
