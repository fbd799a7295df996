"""Rows of our own models (`skiplab.models`); every number follows from blocks × skips a block."""

from case import Case, add, concat, floats, gated, images, residual
from skiplab.models import densenet, highway, resnet, unet

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

OURS = [*RESNETS, *DENSENETS, *HIGHWAYS, *UNETS]
