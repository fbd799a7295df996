"""Families of timm: the smallest member of each, with fewer blocks where the constructor takes their number."""

import re
from collections.abc import Callable
from typing import Any

from torch import nn

from case import Case, add, concat, gated, images, residual, timm


def short(name: str, lists: str, blocks: int, **options: Any) -> Callable[[], nn.Module]:
    """As `timm`, with the first `blocks` blocks alone in each list of modules whose path matches `lists`."""

    def build() -> nn.Module:
        model = timm(name, **options)()
        for path, module in list(model.named_modules()):
            if re.fullmatch(lists, path) and isinstance(module, nn.Sequential | nn.ModuleList):
                del module[blocks:]
        return model

    return build


def inception_v4() -> nn.Module:
    """One of each of its modules, which all stand in one list: 3 convolutions, 3 stems, A × 4, 1, B × 7, 1, C × 3."""
    model = timm("inception_v4")()
    assert isinstance(model.features, nn.Sequential)
    for repeated in (slice(20, 22), slice(12, 18), slice(7, 10)):
        del model.features[repeated]
    return model


CONVOLUTIONAL = [
    # One basic block a stage, the first with an identity; stem of three ReLUs and a max-pool.
    Case("timm_resnet", timm("resnet10t"), images(32), add(1, 3), residual(4, 3 + 1 + 4, 1)),
    # Blur-pooling is a fixed convolution, no weight layer.
    Case("timm_resnetblur", timm("resnetblur18"), images(32), add(5, 3), residual(8, 2 + 8, 1)),
    Case("timm_seresnet", timm("seresnet18"), images(32), add(5, 3), residual(8, 2 + 8, 2), gates=8),
    Case("timm_ecaresnet", timm("ecaresnet26t"), images(32), add(4, 4), residual(8, 3 + 1 + 8, 3), gates=8),
    # The split's two convolutions are stacked, and weighted by attention to their sum.
    Case("timm_skresnet", timm("skresnet18"), images(32), add(5, 3), gates=8, fusions=8),
    # Radix 2: both halves of one convolution are weighted.
    Case("timm_resnest", timm("resnest14d"), images(32), add(0, 4), residual(4, 3 + 1 + 4, 3), gates=4),
    # Global context is added: from a pooled value (product) through a bottleneck (ReLU) past the block's output.
    Case(
        "timm_gcresnext", timm("gcresnext26ts"), images(32), add(4 + 8, 4), (3**8, 3 + 1 + 8, 3 + 1 + 8 + 8 * (2 + 2))
    ),
    # Pre-activation without norm; a projection stands behind the block's activation.
    Case(
        "timm_nfnet",
        timm("nf_seresnet26"),
        images(32),
        add(4, 4),
        (2**8, 1 + 4 + 1, 1 + 4 + 1 + 4 * 3 + 4 * 4),
        gates=8,
        meta=True,
    ),
    # Pre-activation: what stands before a stage's first block also stands before its projection.
    Case(
        "timm_resnetv2",
        timm("resnetv2_50", layers=[2, 2, 1, 1]),
        images(32),
        add(2, 4),
        (2**6, 1 + 1 + 4, 1 + 1 + 6 * 3),
    ),
    Case("timm_convnext", timm("convnext_atto"), images(32), add(2 + 2 + 6 + 2), residual(12, 0, 1)),
    # Global response normalisation, x + γ·x·n(x) + β, has no weight layer: neither skip nor gate.
    Case("timm_convnextv2", timm("convnextv2_atto", depths=(1, 1, 1, 1)), images(32), add(4)),
    # L(L+1)/2 for each block.
    Case(
        "timm_densenet",
        timm("densenet121", block_config=(3, 4)),
        images(32),
        concat(3 * 4 // 2 + 4 * 5 // 2),
        residual(3 + 4, 1 + 1 + 1 + 1, 2),
    ),
    # Of 6 blocks the first of each stage projects behind an activation, so that both its merges are fusion; in
    # each other one a part of the input is added to, a part joined with the new channels.
    Case(
        "timm_dpn",
        timm("dpn48b", k_sec=(2, 2, 1, 1)),
        images(32),
        {**add(resample=6 - 4), **concat(resample=6 - 4)},
        fusions=2 * 4,
    ),
    # A tree of two blocks joins them: x₂ over x₁ is a skip. The first block's shortcut passes a max-pool: fusion.
    # Levels 2, 3 (two trees), 4 (two trees), 5. The second of two trees has an identity in its first block too and
    # joins its own input; level 5 joins what it projects.
    Case(
        "timm_dla",
        timm("dla34"),
        images(32),
        {**add(1 + 3 + 3 + 1), **concat(1 + 3 + 3 + 2)},
        fusions=1 + 1 + 1 + 1,
    ),
    # 22 blocks of 3 branches, of which the 5 that change the resolution lack the identity.
    Case("timm_repvgg", timm("repvgg_a0"), images(32), census=(3**17 * 2**5, 22, 22), foldable=22),
    # Stem, and 21 pairs of a depthwise and a pointwise block. A depthwise one has a 1×1 besides, and but for each
    # stage's first a batch norm; a pointwise one a batch norm where the width stays (in 1 + 7 + 9 of them).
    Case(
        "timm_mobileone",
        timm("mobileone_s1"),
        images(32),
        census=(2 * 2**4 * 3**17 * 2**17, 43, 43),
        foldable=1 + 21 + 17,
    ),
    # Residual blocks alone; the sums between resolutions are fusion: one for each resolution of stages 2 to 4,
    # three in the head. Projections: first stage, four heads.
    Case("timm_hrnet", timm("hrnet_w18_small"), images(64), add(2 * (2 + 3 + 4), 1 + 4), fusions=2 + 3 + 4 + 3),
    # Per block of four groups: one group is handed on; in a stage's other blocks the next group joins a
    # convolution's result twice, and both results are read again by the concatenation.
    Case(
        "timm_res2net",
        timm("res2net50_26w_4s", layers=[2, 2, 1, 1]),
        images(32),
        {**add(2, 4, 2 * 2), **concat(2 * 2, 6)},
    ),
    # A half of the channels past each stage, and a skip in each block.
    Case("timm_cspresnet", timm("cspresnet50"), images(32), {**add(3 + 3 + 5 + 2), **concat(resample=4)}),
    # One-shot aggregation joins the input and three results, of which the last is new. 5 blocks; the second of
    # the last stage is residual. Gate at each stage's end. Max-pools before three stages.
    Case(
        "timm_vovnet",
        timm("ese_vovnet19b_slim", block_per_stage=[1, 1, 1, 2]),
        images(32),
        {**add(1), **concat(3 * 5)},
        (4**4 * (4 + 1), 3 + 3 + 3 * 2 + 1 + 0, 3 + 3 + 3 * 5 + 4 + 5),
        gates=4,
    ),
    # Repeats after the first: 2, 3, 4, 3, 3 less one each. 16 blocks of two ReLU6 and one of one.
    Case("timm_mobilenetv2", timm("mobilenetv2_050"), images(32), add(10), residual(10, 1 + 1 + 12 + 1, 2)),
    # Repeats after the first: 2, 3, 2, 3 less one each. Gates in all blocks but the two of 24 channels.
    Case("timm_mobilenetv3", timm("mobilenetv3_small_100"), images(32), add(6), (2**6, 33 - 2 - 5 * 3, 33), gates=9),
    # No skips: 13 blocks of two activations, of which the last two are gated; stem and head.
    Case("timm_lcnet", timm("lcnet_035"), images(32), census=(1, 1 + 26 + 2 + 1, 1 + 26 + 2 + 1), gates=2),
    # Skips: first block, and repeats 2, 4, 3, 3, 3 less one each; gates from 40 channels on. Kernels of several
    # sizes side by side are fusion: of the expansion, the depthwise layer, the projection (k, a and p in its plan).
    Case(
        "timm_mixnet",
        timm("mixnet_s"),
        images(32),
        add(1 + 1 + 3 + 2 + 2 + 2),
        gates=4 + 3 + 3 + 3,
        fusions=2 + 2 + 1 + 9 + 2 + 4 + 3 + 6 + 1 + 4,
    ),
    # Two ghost modules a block, each joining a convolution of its features to them. The 5 blocks that change the
    # width or the resolution have two convolutions on the shortcut.
    Case("timm_ghostnet", timm("ghostnet_050"), images(32), {**add(11), **concat(2 * 16)}, gates=7, fusions=5),
    # Stages of 1, 1, 1, 2, 2, 3 blocks, all but the first two gated. Where the stride is 1 and the width grows (all but
    # the first of a stage, and both of the fifth), the sum stands beside the new channels.
    Case(
        "timm_rexnet",
        timm("rexnet_100", depth_mult=0.5),
        images(32),
        add(5),
        (3**5, 1 + 1 + 2 + 3 + 3 + 3 + 1, 1 + 1 + 2 + 3 + 3 + 3 + 1 + 5 * 3),
        gates=8,
        fusions=5,
    ),
    # Stem of 3 modules, A, reduction, B, reduction, C (whose two wide branches split in two again).
    Case(
        "timm_inception_v4",
        inception_v4,
        images(299),
        census=(
            2**3 * 4 * 3 * 4 * 3 * 6,
            3 + 1 + 2 + 1 + 1 + 1 + 1 + 1 + 1,
            3 + 1 + 4 + 1 + 3 + 3 + 5 + 4 + 4,
        ),
        fusions=3 + 1 + 1 + 1 + 1 + 3,
        meta=True,
    ),
    # 2 + 2 + 3 residual blocks, each with a fusion inside; three modules without skip.
    Case(
        "timm_inception_resnet_v2",
        short("inception_resnet_v2", r"repeat(_\d)?", 2),
        images(299),
        add(2 + 2 + 3),
        (
            4 * (3 + 1) ** 2 * 3 * (2 + 1) ** 2 * 4 * (2 + 1) ** 3,
            5 + 2 + 1 + 2 + 1 + 2 + 1 + 2 + 1,
            5 + 2 + 3 + 2 * 4 + 3 + 2 * 4 + 3 + 2 * 4 + 3 + 1,
        ),
        fusions=3 + 7,
        meta=True,
    ),
    # Four blocks change the width; three of them and the first max-pool their branch.
    Case(
        "timm_xception",
        timm("legacy_xception"),
        images(96),
        add(8, 4),
        (2**12, 2 + 2, 2 + 2 + 3 + 3 + 8 * 3 + 3 + 2),
        meta=True,
    ),
    # The element-wise product of two layers of one value.
    Case("timm_starnet", timm("starnet_s1", depths=[1, 1, 1, 1]), images(32), add(4), residual(4, 1, 1), gates=4),
    # Three pairs of blocks: each joins two earlier results and a third, the second also the first's output.
    Case(
        "timm_selecsls",
        timm("selecsls42b"),
        images(64),
        concat(3 * (2 + 3)),
        ((3 * 4) ** 3, 1 + 4 + 3 * (2 + 1), 1 + 4 + 3 * (6 + 6)),
    ),
    # Aggregation of a block's input and three results, of which the last is new: 1 + 1 + 2 + 1 blocks, the second
    # of one stage residual. A max-pool beside two convolutions in the stem.
    Case("timm_hgnet", timm("hgnetv2_b0"), images(32), {**add(1), **concat(3 * (1 + 1 + 2 + 1))}, fusions=1),
    # A mixer x + γ · (m(x) − n(x)) of convolutions and norms alone; three overparametrised layers in the stem, two
    # where a stage begins, one at the end with squeeze-and-excitation.
    Case(
        "timm_fastvit",
        timm("fastvit_t8", layers=(1, 1, 1, 1)),
        images(64),
        add(4),
        foldable=3 + 2 * 3 + 1 + 2 * 4,
        gates=1,
    ),
    # Three parallel convolutions a block, one inside each transition, then an MLP with a skip; two linear heads.
    Case(
        "timm_repvit",
        timm("repvit_m0_9", depth=(2, 2, 2, 2)),
        images(64),
        add(4 * 2 + 3 * 2),
        (2 * 3**11 * 2**14, 1 + 4, 1 + 4 + 14),
        gates=4,
        foldable=4 * 2 + 3 + 1,
    ),
]

TRANSFORMING = [
    Case("timm_vit", timm("vit_tiny_patch16_224", img_size=32, depth=4), images(32), add(2 * 4), residual(8, 0, 1)),
    # Two linear heads, of which the mean is returned.
    Case(
        "timm_deit",
        timm("deit_tiny_distilled_patch16_224", img_size=32, depth=4),
        images(32),
        add(2 * 4),
        (2 * 2**8, 0, 8),
        foldable=1,
    ),
    Case("timm_mixer", timm("mixer_s32_224", img_size=64), images(64), add(2 * 8), residual(16, 0, 1)),
    # One skip a block; half of its channels weight the others, mixed over positions.
    Case("timm_gmlp", short("gmlp_ti16_224", "blocks", 4, img_size=32), images(32), add(4), residual(4, 0, 2), gates=4),
    # Mixing over positions is one linear layer without an activation: foldable into its shortcut.
    Case("timm_resmlp", short("resmlp_12_224", "blocks", 4, img_size=32), images(32), add(4), (2**8, 0, 4), foldable=4),
    # Depthwise convolution with a skip, then one without.
    Case(
        "timm_convmixer",
        short("convmixer_1024_20_ks9_p14", "blocks", 4),
        images(56),
        add(4),
        residual(4, 1 + 4, 1),
        meta=True,
    ),
    Case(
        "timm_swin",
        timm("swin_tiny_patch4_window7_224", img_size=64, window_size=4, depths=(2, 2), num_heads=(3, 6)),
        images(64),
        add(2 * 4),
        residual(8, 0, 1),
    ),
    Case(
        "timm_swinv2",
        timm("swinv2_tiny_window8_256", img_size=64, window_size=4, depths=(2, 2), num_heads=(3, 6)),
        images(64),
        add(2 * 4),
        residual(8, 0, 1),
    ),
    # Pooling has no weight layer: only the MLP's sum is a skip.
    Case("timm_poolformer", short("poolformer_s12", r"stages\.\d\.blocks", 1), images(32), add(4), residual(4, 0, 1)),
    # Shortcuts scaled by a parameter in stages 3 and 4. StarReLU: ReLU, then a square.
    Case(
        "timm_caformer",
        short("caformer_s18", r"stages\.\d\.blocks", 1),
        images(32),
        add(2 * 2, resample=2 * 2),
        (2**8, 2, 2 + 2 * (2 + 2) + 2 * (1 + 2)),
    ),
    Case(
        "timm_beit",
        timm("beit_base_patch16_224", img_size=32, depth=2, embed_dim=48, num_heads=2),
        images(32),
        add(2 * 2),
        residual(4, 0, 1),
    ),
    # 3 blocks, and two MLPs after attention that lowers the resolution and has no skip. Two linear heads.
    Case("timm_levit", timm("levit_128s", img_size=64, depth=(1, 1, 1)), images(64), add(2 * 3 + 2), foldable=1),
    # The class token enters late: to the first of its two blocks it is a parameter, and no shortcut. Each later
    # block, and the end, joins the patches again with the token computed from them.
    Case(
        "timm_cait",
        timm("cait_xxs24_224", img_size=32, depth=2),
        images(32),
        {**add(2 * 2 + 2 * 2 - 1), **concat(2)},
    ),
    # Between stages token and patches go through a layer each, and are joined.
    Case("timm_pit", timm("pit_ti_224", img_size=64, depth=[1, 1, 1]), images(64), add(2 * 3), fusions=2),
    # 3 inverted residuals with a skip, 4 without; blocks of 2, 4 and 3 layers whose input joins their output.
    Case(
        "timm_mobilevit",
        timm("mobilevit_xxs"),
        images(64),
        {**add(1 + 2 + 2 * (2 + 4 + 3)), **concat(3)},
        (
            2**3 * (1 + 2 ** (2 * 2)) * (1 + 2 ** (2 * 4)) * (1 + 2 ** (2 * 3)),
            1 + 4 * 2 + 3 + 1,
            1 + 4 * 2 + 3 + 1 + 3 * 2 + (2 + 2 * 2) + (2 + 2 * 4) + (2 + 2 * 3),
        ),
    ),
    # Class attention: beside the new class token stand the patches as they were, twice a block.
    Case(
        "timm_xcit",
        timm("xcit_nano_12_p16_224", img_size=32, depth=2),
        images(32),
        {**add(3 * 2 + 2 * 2), **concat(resample=2 * 2)},
    ),
    # Every block adds a depthwise convolution of the image to it, and joins the class token to that again. In
    # attention convolutions of three sizes are joined and weighted by the query; to them is added q (kᵀv), the query
    # mixed by a matrix that depends on the data.
    Case(
        "timm_coat",
        timm("coat_lite_tiny", img_size=64, serial_depths=(1, 1, 1, 1)),
        images(64),
        {**add(2 * 4), **concat(resample=4)},
        gates=4,
        fusions=4,
        foldable=4,
        unknown=4,
    ),
    # A depthwise convolution as position encoding, added after each stage's first block.
    Case(
        "timm_twins",
        timm(
            "twins_svt_small",
            img_size=64,
            embed_dims=[32, 64],
            num_heads=[1, 2],
            mlp_ratios=[4, 4],
            depths=[2, 1],
            wss=[7, 7],
            sr_ratios=[8, 4],
        ),
        images(64),
        add(2 * 3),
        (2 ** (2 * 3 + 2), 0, 2 * 3),
        foldable=2,
    ),
    # Two scales. Each one's class token visits the other: joined there (fusion), attending, joined here again (past
    # all of which its patches go). Two heads.
    Case(
        "timm_crossvit",
        timm("crossvit_tiny_240", img_size=120, depth=[[1, 2, 0], [1, 1, 0]]),
        images(120),
        {**add(2 * (3 + 2), resample=2 * 2), **concat(resample=2 * 2)},
        fusions=2 * 2 + 1,
    ),
    # Two levels of context and the global one, each weighted and summed; the sum weights the query.
    Case(
        "timm_focalnet",
        short("focalnet_tiny_srf", r"layers\.\d\.blocks", 1),
        images(64),
        add(2 * 4),
        gates=4 * (3 + 1),
        fusions=4,
    ),
    # 5 blocks of one skip and, in the last three stages, one of two whose input is split in 2, 3 and 4: the last
    # part is handed on, each in between is added to a convolution's result, and that is read again.
    Case(
        "timm_edgenext",
        timm("edgenext_xx_small", depths=(2, 2, 2, 2)),
        images(64),
        {**add(5 + 2 * 3), **concat(0 + 1 + 2, 3)},
        foldable=0 + 1 + 2,
    ),
    # Pooling blocks have one skip, as PoolFormer's; one block of attention; two linear heads.
    Case(
        "timm_efficientformer",
        timm("efficientformer_l1", depths=(1, 1, 1, 2)),
        images(224),
        add(4 + 2),
        (2 * 2**6, 2, 2 + 6),
        foldable=1,
        meta=True,
    ),
    # Where the width grows, the shortcut passes a maximum over tokens.
    Case(
        "timm_hiera",
        timm("hiera_tiny_224", img_size=(64, 64), stages=(1, 2, 1, 1)),
        images(64),
        add(2 * 2 + 3),
        (2 ** (2 * 5), 3, 3 + 2 + 5),
        fusions=3,
    ),
    Case(
        "timm_tiny_vit",
        timm("tiny_vit_5m_224", depths=[1, 1, 1, 1]),
        images(64),
        add(1 + 3 * 2),
        (2**7, 1 + 1 + 3 * 2, 1 + 1 + 3 * 2 + 2 + 3 * 2),
    ),
    # Two blocks a step, over windows and over channels, each with two depthwise convolutions added.
    Case(
        "timm_davit",
        timm("davit_tiny", depths=(1, 1), embed_dims=(96, 192), num_heads=(3, 6)),
        images(32),
        add(2 * 4),
        (2 ** (4 * 4), 0, 2 * 4),
        foldable=2 * 4,
    ),
    # Half of what is gated goes round the convolution.
    Case(
        "timm_mambaout",
        timm("mambaout_femto", depths=(1, 1, 1, 1)),
        images(32),
        {**add(4), **concat(resample=4)},
        gates=4,
    ),
    # Two bidirectional LSTMs a block, over columns and over rows, side by side.
    Case(
        "timm_sequencer",
        timm("sequencer2d_s", layers=[1, 1, 1, 1]),
        images(28),
        {**add(2 * 4), **gated(2 * 2 * 4)},
        fusions=4,
    ),
    # A max-pool between stages.
    Case(
        "timm_nest",
        short("nest_tiny", r"levels\.\d\.transformer_encoder", 1, img_size=64),
        images(64),
        add(2 * 3),
        residual(6, 2, 1),
    ),
    Case(
        "timm_visformer",
        timm("visformer_tiny", img_size=64, depth=(1, 1, 1)),
        images(64),
        add(1 + 2 + 2),
        (2**5, 1, 1 + 2 + 2 * 2),
    ),
    # One half of the MLP's layer gates the other.
    Case(
        "timm_eva",
        timm("eva02_tiny_patch14_224", img_size=56, depth=2),
        images(56),
        add(2 * 2),
        residual(4, 0, 1),
        gates=2,
    ),
    # Two class blocks: the token is a slice to attention, then itself to the MLP, and joins the patches again. An
    # auxiliary head over patches is added to the head.
    Case(
        "timm_volo",
        short("volo_d1_224", r"network\.\d", 1, img_size=64),
        images(64),
        {**add(2 * 4 + 2, resample=2), **concat(resample=2)},
        fusions=1,
    ),
    # Convolution, then attention; shortcuts pool, and project where the width grows.
    Case(
        "timm_coatnet",
        short("coatnet_pico_rw_224", r"stages\.\d\.blocks", 2, img_size=64),
        images(64),
        add(1 + 1 + (1 + 2) + (1 + 2), 3, 1),
        gates=2 + 2,
    ),
    # Linear attention over tokens at two scales, the second computed from the first.
    Case(
        "timm_efficientvit",
        timm("efficientvit_b0"),
        images(64),
        {**add(1 + 1 + 1 + 2 * 2 + 2 * 2), **concat(2 * 2)},
        meta=True,
    ),
]

TIMM = [*CONVOLUTIONAL, *TRANSFORMING]
