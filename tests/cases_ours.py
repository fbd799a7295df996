"""Rows of our own models (`skiplab.models`); every number follows from blocks × skips a block."""

from typing import Any

import torch
from torch import nn

from case import Case, Inputs, add, floats, gated, images, residual
from skiplab.models import (
    gru,
    highway_rnn,
    lstm,
    min_gru,
    residual_rnn,
    resnet,
    rnn,
    transformer_decoder,
    transformer_encoder,
    vit,
    vit_b_16,
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

OURS = [*RESNETS, *TRANSFORMERS, *RECURRENT]
