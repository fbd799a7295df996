"""The geometry of the arcs in an arc diagram, from tables to tables.

The coordinates are the order of the operation and log2 of its resolution, so a U-Net looks like a U. Each skip is half
an ellipse from its fork to its merge. Longer arcs rise higher, so nested ones do not overlap; an arc over a valley,
such as a U-Net's long skip, stays flat.
"""

import math

import pandas as pd

WIDTH, HEIGHT = 780, 210  # pixels of one diagram
_POINTS, _BUDGET = 24, 6000  # points of an arc, and of all arcs of a page together


def arc_points(spine: pd.DataFrame, skips: pd.DataFrame) -> pd.DataFrame:
    """The arcs as points: columns key (the skip's row number in `skips`), step, x, y.

    `spine` and `skips` as `skip_charts` takes them. Skips without a finite position have no points.
    """
    count = max(8, min(_POINTS, _BUDGET // max(len(skips), 1)))
    grounds = {name: _SpineProfile(part) for name, part in spine.groupby(["variant", "depth"])}
    stacked: dict[tuple, int] = {}
    rows = []
    for key, skip in enumerate(skips.to_dict("records")):
        ground = grounds.get((skip["variant"], skip["depth"]))
        ends = [(skip[f"{end}_order"], skip[f"{end}_resolution"]) for end in ("fork", "merge")]
        places = [(float(order), log2(float(resolution))) for order, resolution in ends]
        if ground is None or not all(math.isfinite(number) for place in places for number in place):
            continue
        same = (skip["variant"], skip["depth"], *places)
        stacked[same] = stacked.get(same, -1) + 1
        rise = ground.rise(places[0], places[1]) * (1 + 0.3 * stacked[same])
        rows += [(key, step, *point) for step, point in enumerate(half_ellipse(places, rise, count))]
    return pd.DataFrame(rows, columns=["key", "step", "x", "y"])


def half_ellipse(places: list[tuple[float, float]], rise: float, count: int) -> list[tuple[float, float]]:
    """`count` points from the first place to the second, `rise` above the higher of the two levels.

    If the levels differ, the arc stays near the higher one for most of its length, and so clears the spine.
    """
    (x0, y0), (x1, y1) = places
    points = []
    for step in range(count):
        angle = math.pi * step / (count - 1)
        way = (1 - math.cos(angle)) / 2
        level = y0 + (y1 - y0) * (way**4 if y1 < y0 else 1 - (1 - way) ** 4)
        points.append((x0 + (x1 - x0) * way, level + rise * math.sin(angle)))
    return points


def log2(resolution: float) -> float:
    """log2 of a resolution; NaN for none (0, NaN, infinity)."""
    return math.log2(resolution) if 0 < resolution < math.inf else math.nan


class _SpineProfile:
    """Scale and heights of one network's spine, which determine the height of its arcs."""

    def __init__(self, spine: pd.DataFrame) -> None:
        levels = [(float(o), log2(float(r))) for o, r in zip(spine["order"], spine["resolution"], strict=True)]
        self.levels = [(order, level) for order, level in levels if math.isfinite(level)]
        orders = [order for order, _ in self.levels] or [0.0]
        heights = [level for _, level in self.levels] or [0.0]
        self.order_pixels = WIDTH / max(max(orders) - min(orders), 1)
        self.octave_pixels = 0.6 * HEIGHT / max(max(heights) - min(heights), 0.6)

    def rise(self, fork: tuple[float, float], merge: tuple[float, float]) -> float:
        """Height of the arc in octaves: it grows with the length to at most half the picture; low over a valley."""
        length = abs(merge[0] - fork[0]) * self.order_pixels
        pixels = 0.5 * HEIGHT * length / (length + 80)
        between = [level for order, level in self.levels if fork[0] < order < merge[0]]
        dip = max(0.0, min(fork[1], merge[1]) - min(between, default=math.inf)) * self.octave_pixels
        return pixels / (1 + dip / 12) / self.octave_pixels
