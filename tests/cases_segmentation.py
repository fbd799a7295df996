"""segmentation-models-pytorch: its decoders on a ResNet-18, whose stages have 1, 4, 16, 64 and 256 paths."""

from collections.abc import Callable
from typing import Any

from torch import nn

from case import Case, add, concat, images


def segmentation(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import segmentation_models_pytorch as smp

        return getattr(smp, name)(encoder_name="resnet18", encoder_weights=None, **options)

    return build


# To the end of the encoder: a ReLU and a max-pool in the stem, a ReLU after each of 8 blocks, one on a branch.
LEAST, MOST = 1 + 1 + 8, 1 + 1 + 8 * 2

SEGMENTATION = [
    # Four stages join the way up at their own resolution. Two ReLUs in each of 5 blocks; the first stage joins
    # before the fourth.
    Case(
        "smp_unet",
        segmentation("Unet"),
        images(64),
        {**add(5, 3), **concat(4)},
        (sum(4**i for i in range(5)), 1 + 2 * 2, MOST + 5 * 2),
    ),
    # Attention before and after the convolutions of 4 blocks, after those of the last: two gates of one value, whose
    # products are added.
    Case(
        "smp_unet_scse",
        segmentation("Unet", decoder_attention_type="scse"),
        images(64),
        {**add(5, 3), **concat(4)},
        gates=2 * (4 + 5),
        fusions=4 + 5,
    ),
    # Node k of a row joins k earlier nodes and the encoder's stage, all but the newest of which have been read before;
    # then the upsampled node of the row below (in the first node, which joins nothing else before, the stage itself
    # is the skip). Rows of 4 nodes, 3, 2 and 1.
    Case(
        "smp_unetplusplus",
        segmentation("UnetPlusPlus"),
        images(64),
        {**add(5, 3), **concat(4 + 3 * 1 + 2 * 2 + 1 * 3)},
        fusions=3 + 2 + 1,
    ),
    # Lateral projections of three stages, from each of which (and the last) a way leads to the sum at the end.
    # Its four ways have 3, 2, 1 and 1 ReLUs.
    Case(
        "smp_fpn",
        segmentation("FPN"),
        images(64),
        add(5, 3 + 3),
        (4**4 * 4 + 4**3 * 3 + 4**2 * 2 + 4, 1 + 1 + 2 + 1, MOST + 3),
        fusions=1,
    ),
    # Stages are added. Three ReLUs in each of 5 blocks.
    Case(
        "smp_linknet",
        segmentation("Linknet"),
        images(64),
        add(5 + 4, 3),
        (sum(4**i for i in range(5)), 1 + 3, MOST + 5 * 3),
    ),
    # Five ways of the pyramid; then the first stage joins behind a convolution and a ReLU: fusion both.
    Case(
        "smp_deeplabv3plus",
        segmentation("DeepLabV3Plus"),
        images(64),
        add(5, 3),
        (5 * 4**4 + 4, 1 + 1 + 2 + 1 + 1, MOST + 1 + 1 + 1 + 1),
        fusions=2,
    ),
]
