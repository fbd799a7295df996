"""Rows of our own models (`skiplab.models`); every number follows from blocks × skips a block."""

from case import Case, add, images, residual
from skiplab.models import resnet

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

OURS = [*RESNETS]
