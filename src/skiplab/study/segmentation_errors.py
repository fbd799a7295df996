"""Where a segmentation is wrong: at the edges of what it should find, or inside and far away.

Zones are a pixel's class, digit or background, and its distance to the nearest pixel of the other (see
`skiplab.data.distances`): 1 is an edge, `MOST` stands for itself and all beyond.
"""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from skiplab.data import Split, distances

MAX_DISTANCE = 3
CLASSES = ("background", "digit")  # of targets 0 and 1


class BalancedErrors(NamedTuple):
    """Two functions (output, target) -> one value a canvas, whose mean over all canvases is the balanced error.

    That is the mean, over the two classes, of the share of its pixels that are wrong: one half for whatever says the
    same everywhere. `edge` is of the pixels at distance 1, `inside` of those farther from any edge. A canvas's value
    is no share of its own, since some have no such pixels: it is its wrong pixels over the mean count in a canvas.
    """

    edge: Callable[[Tensor, Tensor], Tensor]
    inside: Callable[[Tensor, Tensor], Tensor]


def balanced_errors(split: Split) -> BalancedErrors:
    """The two errors of a part, whose counts of pixels they are taken over. Targets (N, H, W), 0 or 1."""

    def of(edge: bool) -> Callable[[Tensor, Tensor], Tensor]:
        whole = [_zone(split.y, label, edge).sum() / len(split) for label in range(len(CLASSES))]

        def error(output: Tensor, target: Tensor) -> Tensor:
            wrong = output.argmax(1) != target
            counts = [(wrong & _zone(target, label, edge)).flatten(1).sum(1) for label in range(len(CLASSES))]
            return torch.stack([count / all_ for count, all_ in zip(counts, whole, strict=True)]).double().mean(0)

        return error

    return BalancedErrors(of(True), of(False))


def _zone(y: Tensor, label: int, edge: bool) -> Tensor:
    return (y == label) & ((distances(y, 2) == 1) == edge)


def errors_by_zone(answer: Tensor, y: Tensor) -> pd.DataFrame:
    """One row a class and distance: kind, distance, pixels, wrong (their share, NaN for none). Both (N, H, W)."""
    far, rows = distances(y, MAX_DISTANCE), []
    for label, kind in enumerate(CLASSES):
        for distance in range(1, MAX_DISTANCE + 1):
            zone = (y == label) & (far == distance)
            wrong = (answer != y)[zone].double().mean()  # NaN of nothing
            rows.append((kind, distance, int(zone.sum()), float(wrong)))
    return pd.DataFrame(rows, columns=["kind", "distance", "pixels", "wrong"])


def intersection_over_union(answer: Tensor, y: Tensor) -> float:
    """Intersection over union of the digits' pixels, over all canvases together: 1 is perfect, 0 is no overlap.

    Both (N, H, W), 0 or 1; NaN where neither has a digit.
    """
    both, either = ((answer > 0) & (y > 0)).sum(), ((answer > 0) | (y > 0)).sum()
    return float(both / either) if either else float("nan")
