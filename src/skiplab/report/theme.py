"""The look of all charts: one configuration, and colors that color-blind readers can distinguish."""

import math
from collections.abc import Iterable
from typing import TypeVar

import altair as alt

TopLevelChart = TypeVar("TopLevelChart", alt.Chart, alt.LayerChart, alt.VConcatChart, alt.HConcatChart)
AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.VConcatChart | alt.HConcatChart

INK = "#24292f"
MUTED = "#6e7781"
FAINT = "#c9d1d9"
ALARM = "#b3001b"
PLAIN = "#767676"
PALETTE = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b3f95", "#17202a", "#8c510a", "#7aa82c")
BELOW, ZERO, ABOVE = "#0b5fa5", "#b4b4b4", "#b8480a"  # a signed quantity: blue, gray, rust

_FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"


def apply_theme(chart: TopLevelChart) -> TopLevelChart:
    """A copy of the chart with Skiplab's fonts, grid and spacing. Only for a top-level chart."""
    config = alt.Config(
        font=_FONT,
        background="white",
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            domainColor=FAINT,
            gridColor="#eef1f4",
            labelColor=MUTED,
            labelFontSize=11,
            tickColor=FAINT,
            titleColor=INK,
            titleFontSize=11,
            titleFontWeight="normal",
        ),
        header=alt.HeaderConfig(labelColor=INK, labelFontSize=12, labelFontWeight=600),
        legend=alt.LegendConfig(
            labelColor=INK,
            labelFontSize=11,
            labelLimit=260,
            titleColor=INK,
            titleFontSize=11,
            titleFontWeight="normal",
            titleLimit=320,
        ),
        title=alt.TitleConfig(
            anchor="start",
            color=INK,
            fontSize=13,
            fontWeight=600,
            subtitleColor=MUTED,
            subtitleFontSize=11,
            offset=8,
        ),
    )
    return chart.properties(config=config)


def variant_scale(names: Iterable[str]) -> alt.Scale:
    """One color per variant, the same in every chart: `plain` is gray, the others are assigned alphabetically."""
    others = sorted({name for name in names if name != "plain"})
    domain = ["plain", *others] if "plain" in names else others
    colors = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(others)} | {"plain": PLAIN}
    return alt.Scale(domain=domain, range=[colors[name] for name in domain])


def measured_scale(values: Iterable[float]) -> alt.Scale:
    """A color scale for measured values, by their square root, since measured changes have long tails.

    Values of one sign have a sequential scale. Values of both signs have a diverging one: gray is zero, and equal
    absolute values are equally strong, so a small negative value never looks like a large one.
    """
    finite = [float(value) for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if low >= 0 or high <= 0:
        ends = (0.0, high or 1.0) if low >= 0 else (low, 0.0)
        extent = [0.82, 0.05] if low >= 0 else [0.05, 0.82]  # larger is darker, and nothing is near white
        scheme = alt.SchemeParams(name="viridis", extent=extent)
        return alt.Scale(type="sqrt", domain=list(ends), scheme=scheme, nice=False)
    largest = max(-low, high)
    colors = [_mix(ZERO, BELOW, math.sqrt(-low / largest)), ZERO, _mix(ZERO, ABOVE, math.sqrt(high / largest))]
    return alt.Scale(type="sqrt", domain=[low, 0, high], range=colors, nice=False)


def _mix(start: str, end: str, share: float) -> str:
    """Interpolate between two colors `#rrggbb`; `share` goes from 0 (start) to 1 (end)."""
    pairs = ((int(start[i : i + 2], 16), int(end[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
