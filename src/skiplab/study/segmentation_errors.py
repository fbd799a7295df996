"""Errors of a segmentation at edges and inside regions.

The zone of a pixel is its class (digit or background) and its distance to the nearest pixel of the other class (see
`skiplab.data.distances`): 1 is an edge, `MAX_DISTANCE` includes all larger distances.
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
    """Two functions (output, target) -> one value per canvas; the mean over all canvases is the balanced error.

    The balanced error is the mean over the two classes of the share of wrong pixels, so a constant prediction has 0.5.
    `edge` counts pixels at distance 1 from the other class, `inside` the others. The value of one canvas is its number
    of wrong pixels over the mean number of such pixels in a canvas, since some canvases have none.
    """

    edge: Callable[[Tensor, Tensor], Tensor]
    inside: Callable[[Tensor, Tensor], Tensor]


def balanced_errors(split: Split) -> BalancedErrors:
    """The two errors for a part of the data, which gives the pixel counts. Targets (N, H, W), 0 or 1."""

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
    """One row per class and distance: kind, distance, pixels, wrong (their share; NaN without pixels).

    Both tensors are (N, H, W).
    """
    far, rows = distances(y, MAX_DISTANCE), []
    for label, kind in enumerate(CLASSES):
        for distance in range(1, MAX_DISTANCE + 1):
            zone = (y == label) & (far == distance)
            wrong = (answer != y)[zone].double().mean()  # NaN without pixels
            rows.append((kind, distance, int(zone.sum()), float(wrong)))
    return pd.DataFrame(rows, columns=["kind", "distance", "pixels", "wrong"])


def intersection_over_union(answer: Tensor, y: Tensor) -> float:
    """Intersection over union of the digits' pixels over all canvases: 1 is perfect, 0 is no overlap.

    Both tensors are (N, H, W), 0 or 1. NaN if neither has a digit.
    """
    both, either = ((answer > 0) & (y > 0)).sum(), ((answer > 0) | (y > 0)).sum()
    return float(both / either) if either else float("nan")
