"""torchvision's classification models."""

from collections.abc import Callable

from torch import nn

from case import Case, add, concat, images, residual, torchvision


def swin(version: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision.models import swin_transformer as swin

        return swin.SwinTransformer(
            patch_size=[4, 4],
            embed_dim=8,
            depths=[2, 2],
            num_heads=[1, 2],
            window_size=[4, 4],
            block=swin.SwinTransformerBlockV2 if version == 2 else swin.SwinTransformerBlock,
            downsample_layer=swin.PatchMergingV2 if version == 2 else swin.PatchMerging,
        )

    return build


def maxvit() -> nn.Module:
    from torchvision.models.maxvit import MaxVit

    return MaxVit(
        input_size=(32, 32),
        stem_channels=8,
        partition_size=2,
        block_channels=[8, 16],
        block_layers=[1, 2],
        head_dim=4,
        stochastic_depth_prob=0.0,
    )


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
    # No skips: ReLUs and max-pools, 5 + 3 + 2, 8 + 5 + 2 and 13 + 5 + 2.
    Case("alexnet", torchvision("alexnet"), images(64), census=(1, 10, 10), meta=True),
    Case("vgg11", torchvision("vgg11"), images(224), census=(1, 15, 15), meta=True),
    Case("vgg16", torchvision("vgg16"), images(224), census=(1, 20, 20), meta=True),
    # Eight fire modules: squeeze, then two ways to expand.
    Case(
        "squeezenet",
        torchvision("squeezenet1_1"),
        images(64),
        census=(2**8, 1 + 3 + 16 + 1, 1 + 3 + 16 + 1),
        fusions=8,
    ),
    # Nine modules of four ways with one or two ReLUs; stem of 3 ReLUs and 2 max-pools; 2 max-pools between.
    Case(
        "googlenet",
        torchvision("googlenet", init_weights=False, transform_input=True),
        images(64),
        census=(4**9, 7 + 9, 7 + 18),
        fusions=9,
    ),
    # Modules A (×3), B, C (×4), D, E (×2, whose wide branches split in two again); stem 5 ReLUs, 2 max-pools.
    Case(
        "inception_v3",
        torchvision("inception_v3", init_weights=False, transform_input=True),
        images(299),
        census=(4**3 * 3 * 4**4 * 3 * 6**2, 7 + 3 + 1 + 4 + 1 + 2, 7 + 3 * 3 + 3 + 4 * 5 + 4 + 2 * 3),
        fusions=3 + 1 + 4 + 1 + 2 * 3,
        meta=True,
    ),
    Case("convnext_tiny", torchvision("convnext_tiny"), images(32), add(3 + 3 + 9 + 3), residual(18, 0, 1)),
    Case("vit_b_16", torchvision("vit_b_16"), images(224), add(2 * 12), residual(24, 0, 1), meta=True),
    Case("swin_t", swin(1), images(32), add(2 * (2 + 2)), residual(8, 0, 1)),
    Case("swin_v2", swin(2), images(32), add(2 * (2 + 2)), residual(8, 0, 1)),
    # 1 + 2 layers of an inverted residual, whose first in each stage projects, and attention twice.
    Case("maxvit", maxvit, images(32), add(3 - 2 + 4 * 3, 2), gates=3),
    # 16 blocks of two ReLU6 and one of one; those with stride 1 and equal widths have a skip: 10.
    Case("mobilenet_v2", torchvision("mobilenet_v2"), images(32), add(10), residual(10, 1 + 1 + 12 + 1, 2)),
    Case("mnasnet", torchvision("mnasnet0_5"), images(32), add(2 + 2 + 2 + 1 + 3), residual(10, 2 + 12 + 1, 2)),
    # Skips in 6 of 11 blocks: one with 2 nonlinearities, five with expansion, depthwise and gate. Gates in 9.
    Case(
        "mobilenet_v3_small",
        torchvision("mobilenet_v3_small"),
        images(32),
        add(6),
        (2**6, 33 - 2 - 5 * 3, 33),
        gates=9,
    ),
    # Repeats after the first of 1, 2, 3, 4, 2, 3 and the first block. Gates at 40, 112 and 160 channels.
    Case(
        "mobilenet_v3_large",
        torchvision("mobilenet_v3_large"),
        images(32),
        add(1 + 1 + 2 + 3 + 1 + 2),
        (2**10, 1 + 2 + 3 + 2 + 3 + 3 + 2, 1 + 2 + 3 + 2 + 3 + 3 + 2 + 1 + 2 + 2 * 3 + 3 * 2 + 3 + 2 * 3),
        gates=3 + 2 + 3,
    ),
    # Repeats after the first of 1, 2, 2, 3, 3, 4, 1; a branch: two SiLUs and the gate. The first has one SiLU.
    Case(
        "efficientnet_b0",
        torchvision("efficientnet_b0"),
        images(32),
        add(9),
        residual(9, 1 + 2 + 6 * 3 + 1, 3),
        gates=1 + 2 + 2 + 3 + 3 + 4 + 1,
    ),
    # Stages of 2, 4, 4 blocks with one SiLU and of 6, 9, 15 with two and a gate. All but the first of a stage have a
    # skip, and the very first too.
    Case(
        "efficientnet_v2_s",
        torchvision("efficientnet_v2_s"),
        images(64),
        add(2 + 3 + 3 + 5 + 8 + 14),
        (2**35, 1 + 1 + 1 + 3 * 3 + 1, 1 + 1 + 1 + 3 * 3 + 1 + 2 + 3 + 3 + 3 * (5 + 8 + 14)),
        gates=6 + 9 + 15,
        meta=True,
    ),
    Case("regnet_x", torchvision("regnet_x_400mf"), images(32), add(22 - 4, 4), residual(22, 1 + 22, 2)),
    Case("regnet_y", torchvision("regnet_y_400mf"), images(32), add(16 - 4, 4), residual(16, 1 + 16, 3), gates=16),
    # Units of stride 1 keep half of the channels: 3 + 7 + 3. Those of stride 2 have two branches of 1 and 2 ReLUs:
    # fusion.
    Case(
        "shufflenet_v2",
        torchvision("shufflenet_v2_x0_5"),
        images(64),
        concat(resample=13),
        (2**16, 3 + 3, 3 + 13 * 2 + 3 * 2),
        fusions=3,
    ),
]
