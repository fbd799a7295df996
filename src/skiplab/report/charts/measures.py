"""The charts of measures by name, and those with one or a few numbers per block."""

import math
from collections.abc import Callable, Mapping

import altair as alt
import numpy as np
import pandas as pd

from skiplab.errors import UsageError
from skiplab.report.charts import signals
from skiplab.report.charts.blocks import Blocks, Quantity, block_bars, reference_line, stacked, subtitle
from skiplab.report.json_data import finite, inline
from skiplab.report.theme import ABOVE, BELOW, INK, MUTED, PALETTE, ZERO, AnyChart

_SIGNS = ("above zero", "includes zero", "below zero")


def contribution_chart(table: pd.DataFrame) -> AnyChart:
    """Size of each branch relative to its shortcut, and its direction.

    table: id, order, ratio, cosine, each with `_std`.
    """
    blocks = Blocks(table)
    size = block_bars(
        blocks,
        table,
        Quantity(column="ratio", title="‖F(x)‖ / ‖x‖", ends="ratio_std", labels=not _has_values(table, "cosine")),
    )
    panels: list[AnyChart] = [size]
    if _has_values(table, "cosine"):
        panels.append(
            block_bars(blocks, table, Quantity(column="cosine", title="cosine of F(x) and x", ends="cosine_std"))
        )
    return stacked("Size of each branch relative to its shortcut, and its direction", panels)


def clipping_chart(table: pd.DataFrame) -> AnyChart:
    """Energy that each activation removes, and the energy left along the route.

    table: id, order, route, energy, energy_std, route_kept.
    """
    blocks = Blocks(table)
    removed = block_bars(
        blocks, table, Quantity(column="energy", title="energy removed", ends="energy_std", form=".0%", labels=False)
    )
    data = inline(table.assign(route_kept=finite(table["route_kept"])))
    y = alt.Y("route_kept:Q", title="energy left", axis=alt.Axis(format=".0%", tickCount=4), scale=_zero_based())
    left = alt.Chart(data).encode(x=blocks.x(), y=y, detail="route:N", tooltip=blocks.tooltip(route_kept="energy left"))
    return stacked(
        "Energy that the activation after each merge removes from the shortcut's signal",
        [removed, blocks.panel(left.mark_line(color=MUTED), left.mark_circle(color=PALETTE[1], size=40, opacity=1))],
    )


def lesion_chart(table: pd.DataFrame) -> AnyChart:
    """Rise of the loss when each part is deleted, one panel per kind of lesion.

    table: id, order, kind, batchnorm, loss_change, loss_change_low, loss_change_high. The color is the sign of the
    95 % interval; a loss that is not finite is a cross. Square-root axes, since changes have long tails.
    """
    blocks = Blocks(table)
    low, high = finite(table["loss_change_low"]), finite(table["loss_change_high"])
    sign = np.select([low > 0, high < 0, low.notna()], [_SIGNS[0], _SIGNS[2], _SIGNS[1]], default="unknown")
    sign = np.where(finite(table["loss_change"]).isna(), _SIGNS[1], sign)  # a cross has no bar
    names = [*_SIGNS, *(["unknown"] if "unknown" in sign else [])]
    scale = alt.Scale(domain=names, range=[ABOVE, ZERO, BELOW, MUTED][: len(names)])
    panels, ends = [], ("loss_change_low", "loss_change_high")
    groups = list(table.assign(sign=sign).groupby(["kind", "batchnorm"], sort=False))
    for number, ((kind, norms), group) in enumerate(groups):
        shown = alt.Legend(title="95 % interval", orient="top") if number == 0 else None
        color, last = alt.Color("sign:N", scale=scale, legend=shown), number == len(groups) - 1
        quantity = Quantity(
            column="loss_change", title="loss change", ends=ends, color=color, scale=alt.Scale(type="sqrt"), labels=last
        )
        title = subtitle(_panel_title(str(kind), str(norms), table["batchnorm"].nunique() > 1))
        panels.append(block_bars(blocks, group, quantity).properties(title=title))
    title = "Change of the loss when each part is deleted, without retraining (square-root axis)"
    return stacked(title, panels)


def _panel_title(kind: str, norms: str, several: bool) -> str:
    text = {
        "branch": "branch deleted",
        "shortcut": "shortcut deleted",
        "mean": "branch replaced by its mean",
        "noise": "branch replaced by noise",
        "shuffle": "branch of another sample",
        "shortcut-mean": "shortcut replaced by its mean",
        "shortcut-noise": "shortcut replaced by noise",
        "shortcut-shuffle": "shortcut of another sample",
        "reorder": "blocks swapped",
        "layer": "layer deleted",
    }.get(kind, kind)
    return text + (f", batch norm {norms}" if several and norms not in ("", "None", "nan") else "")


def estimate_chart(table: pd.DataFrame) -> AnyChart:
    """Estimated loss change of each deletion; the tick is its first-order term.

    table: id, order, loss_change, first_order.
    """
    blocks = Blocks(table)
    first = alt.Chart(inline(table.assign(first_order=finite(table["first_order"]))))
    tick = first.mark_tick(color=INK, thickness=2).encode(
        x=blocks.x(), y="first_order:Q", tooltip=blocks.tooltip(first_order="first order")
    )
    title = "Rise of the loss, estimated from gradients (tick: first-order term)"
    return stacked(
        title, [block_bars(blocks, table, Quantity(column="loss_change", title="estimated loss change"), tick)]
    )


def probe_chart(table: pd.DataFrame) -> AnyChart:
    """Accuracy of a linear classifier of each block's features, on held-out samples with their 95 % interval.

    table: id, order, accuracy, accuracy_low, accuracy_high, train_accuracy.
    """
    blocks = Blocks(table)
    numbers = ("accuracy", "accuracy_low", "accuracy_high", "train_accuracy")
    base = alt.Chart(inline(table.assign(**{each: finite(table[each]) for each in numbers}))).encode(x=blocks.x())
    scale = alt.Scale(domain=[0, 1])
    y = alt.Y("accuracy:Q", title="accuracy", axis=alt.Axis(format=".0%", tickCount=5), scale=scale)
    shown = blocks.tooltip(accuracy="held out", accuracy_low="from", accuracy_high="to", train_accuracy="training")
    band = base.mark_area(opacity=0.22, color=PALETTE[1]).encode(
        y=alt.Y("accuracy_low:Q", title="accuracy", scale=scale), y2="accuracy_high:Q"
    )
    line = base.mark_line(color=PALETTE[1], point=True).encode(y=y, tooltip=shown)
    fitted = base.mark_line(color=MUTED, strokeDash=[4, 3]).encode(y=alt.Y("train_accuracy:Q", title="accuracy"))
    title = "Accuracy of linear probes on held-out samples (dashed: on their training samples)"
    return stacked(title, [blocks.panel(band, fitted, line).properties(height=220)])


def spectrum_chart(table: pd.DataFrame) -> AnyChart:
    """Singular values of each skip's Jacobian: from the smallest to the largest, the root mean square as a tick.

    table: id, network, order, largest, smallest, mean_square. One panel per network.
    """
    blocks = Blocks(table)
    numbers = {each: finite(table[each]) for each in ("largest", "smallest")}
    frame = table.assign(**numbers, middle=finite(table["mean_square"]).pow(0.5))
    frame = frame.assign(**{each: frame[each].where(frame[each] > 0) for each in ("largest", "smallest", "middle")})
    panels, networks = [], list(frame.groupby("network", sort=False))
    for number, (network, group) in enumerate(networks):
        x = blocks.x(number == len(networks) - 1)
        base = alt.Chart(inline(group)).encode(x=x)
        y = alt.Y("smallest:Q", title="singular value", scale=alt.Scale(type="log"), axis=alt.Axis(tickCount=4))
        shown = blocks.tooltip(largest="largest", middle="root mean square", smallest="smallest")
        span = base.mark_rule(strokeWidth=4, color=PALETTE[5]).encode(y=y, y2="largest:Q", tooltip=shown)
        middle = base.mark_tick(color=INK, thickness=2).encode(
            y=alt.Y("middle:Q", title="singular value"), tooltip=shown
        )
        panels.append(blocks.panel(reference_line(1.0, MUTED), span, middle).properties(title=subtitle(str(network))))
    return stacked("Singular values of each block's Jacobian", panels)


def linearity_chart(table: pd.DataFrame) -> AnyChart:
    """Share of a block that no linear map explains, and the distance of the best one from the identity.

    table: id, order, nonlinearity, distance_from_identity.
    """
    blocks = Blocks(table)
    panels: list[AnyChart] = [
        block_bars(blocks, table, Quantity(column="nonlinearity", title="not linear", form=".0%", labels=False))
    ]
    panels.append(block_bars(blocks, table, Quantity(column="distance_from_identity", title="from identity")))
    return stacked("Nonlinearity of each block, and its distance from the identity", panels)


def cost_chart(table: pd.DataFrame) -> AnyChart:
    """Memory that each shortcut holds while its branch runs, and the time of the block.

    table: id, order, held_bytes, branch_ms, shortcut_ms.
    """
    blocks = Blocks(table)
    power = int(math.log2(max(1.0, finite(table["held_bytes"]).max())) // 10)
    held = table.assign(held=finite(table["held_bytes"]) / 2 ** (10 * power))
    unit = ("B", "KiB", "MiB", "GiB", "TiB")[power]
    long = table.melt(["id", "order"], ["branch_ms", "shortcut_ms"], var_name="way", value_name="ms")
    long = long.assign(way=long["way"].str.removesuffix("_ms"), ms=finite(long["ms"]))
    color = alt.Color(
        "way:N",
        title=None,
        scale=alt.Scale(domain=["branch", "shortcut"], range=[PALETTE[0], PALETTE[1]]),
        legend=alt.Legend(orient="top"),
    )
    time = (
        alt.Chart(inline(long))
        .mark_bar()
        .encode(
            x=blocks.x(),
            y=alt.Y("ms:Q", title="time (ms)", axis=alt.Axis(tickCount=4)),
            color=color,
            tooltip=[*blocks.tooltip(ms="ms"), "way:N"],
        )
    )
    panels: list[AnyChart] = [
        block_bars(
            blocks, held, Quantity(column="held", title=f"held ({unit} a sample)", labels=not long["ms"].notna().any())
        )
    ]
    if long["ms"].notna().any():
        panels.append(blocks.panel(time))
    return stacked("Memory and time of each skip connection", panels)


def _has_values(table: pd.DataFrame, column: str) -> bool:
    return bool(finite(table[column]).notna().any())


def _zero_based() -> alt.Scale:
    return alt.Scale(domainMin=0, nice=True)


def bars_chart(table: pd.DataFrame) -> AnyChart:
    """Every real-valued column as bars by block, with its `_std` as a line: for a measure without a chart of its own.

    table: id, order, and the numbers.
    """
    blocks = Blocks(table)
    numbers = [name for name in table.columns if table[name].dtype.kind == "f" and not name.endswith(_ENDS)]
    panels: list[AnyChart] = []
    for name in numbers:
        ends = f"{name}_std" if f"{name}_std" in table else None
        panels.append(
            block_bars(blocks, table, Quantity(column=name, title=name, ends=ends, labels=name == numbers[-1]))
        )
    return stacked("Measurements of each block", panels)


_ENDS = ("_std", "_low", "_high", "_median")

CHARTS: Mapping[str, Callable[[pd.DataFrame], AnyChart]] = {
    "bars": bars_chart,
    "clipping": clipping_chart,
    "contribution": contribution_chart,
    "cost": cost_chart,
    "estimate": estimate_chart,
    "gradient": signals.gradient_chart,
    "lengths": signals.lengths_chart,
    "lesion": lesion_chart,
    "linearity": linearity_chart,
    "probe": probe_chart,
    "shattering": signals.shattering_chart,
    "similarity": signals.similarity_chart,
    "spectrum": spectrum_chart,
}


def measure_chart(name: str, table: pd.DataFrame) -> AnyChart:
    """The chart of this name, of a table with the columns that it names; UsageError when there is none."""
    if name not in CHARTS:
        raise UsageError(f"no chart is called {name!r}: choose of {', '.join(CHARTS)}")
    return CHARTS[name](table)
