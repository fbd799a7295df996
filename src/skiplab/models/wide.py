"""Wide residual networks: Zagoruyko and Komodakis 2016, arXiv:1605.07146."""

from typing import Unpack

from skiplab.errors import UsageError
from skiplab.models.resnet import Options, ResNet, resnet
from skiplab.validation import require_whole


def wide_resnet(depth: int, **options: Unpack[Options]) -> ResNet:
    """WRN-depth-widening with blocks B(3, 3): their Table 1, depth 6n + 4, input (N, 3, 32, 32).

    It is `resnet` in its CIFAR form with pre-activation, projections and wider stages (`widening=10`, unless
    given); their depth counts the three projections and not the linear layer, so it is two more than there.
    Projections take the raw input, as in all of this package's pre-activation networks; the authors' code gives
    them the activated one. Of `dropout`, their §3 takes 0.3.
    """
    require_whole(depth=depth)
    if depth < 10 or (depth - 4) % 6:
        below = max(10, depth - (depth - 4) % 6)
        raise UsageError(f"depth={depth}: a wide ResNet has 6n + 4 weight layers, such as {below} or {below + 6}")
    published: Options = {"placement": "pre", "skip": "B", "widening": 10}
    return resnet(depth - 2, **published | options)


def wide_resnet28_10(**options: Unpack[Options]) -> ResNet:
    """WRN-28-10: their Table 4, 36.5 million parameters. Input (N, 3, 32, 32)."""
    return wide_resnet(28, **options)
