"""What the tables of the measures say, in a sentence or two each, computed from their numbers.

An interval is of 95 %, over samples; where it includes the value that would mean "no effect", the sentence says so.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from skiplab.stats.wording import (
    beside_zero,
    counted,
    ends_of,
    extremes,
    finite_in,
    interval_of,
    intervals_of,
    memory,
    plural,
    quantiles,
    row_at,
    short,
    spread,
    times,
    within,
)

ORIGINAL, PLAIN = "original", "plain"
NETWORK = "network"  # id of the row that is of the whole network


def contribution(table: pd.DataFrame) -> Iterator[str]:
    ratio = finite_in(table, "ratio")
    if ratio.empty:
        yield "No skip has a shortcut whose signal is not zero, so nothing can be said of the branches' size."
        return
    yield (
        f"A branch is {short(ratio['ratio'].median())} times as large as what its shortcut brings, in the median of "
        f"{counted(ratio, 'skip')}: {extremes(ratio, 'ratio')}."
    )
    cosine = finite_in(table, "cosine")
    if len(cosine):
        yield (
            f"Its direction: the median cosine with the shortcut's signal is {cosine['cosine'].median():+.2f}; "
            f"{beside_zero(intervals_of(cosine, 'cosine'))}."
        )


def clipping(table: pd.DataFrame) -> Iterator[str]:
    active = table[table["activation"].notna()]
    if active.empty:
        yield f"No activation follows any of {counted(table, 'merge')}: nothing on the shortcuts' route is clipped."
        return
    energy = finite_in(active, "energy")
    if len(energy):
        yield (
            f"The activation behind a merge removes {energy['energy'].median():.0%} of the energy that the shortcut "
            f"brings in the median of {counted(energy, 'merge')}: {extremes(energy, 'energy', '.0%')}."
        )
    ends = finite_in(active, "route_kept").sort_values("order").groupby("route", sort=False).tail(1)
    if len(ends):
        longest = row_at(ends, ends["route"].map(active["route"].value_counts()).argmax())
        merges = int((active["route"] == longest["route"]).sum())
        left = interval_of(longest, "route_kept")
        yield (
            f"Along the longest route, {plural(merges, 'merge')} up to `{longest['id']}`, "
            f"{longest['route_kept']:.2g} of the energy would be left{within(left)}."
        )


def gradient(table: pd.DataFrame) -> Iterator[str]:
    own = table[table["network"] == ORIGINAL]
    weights = finite_in(own[own["what"] == "weight"], "gradient_norm").sort_values("order")
    if len(weights) > 1 and weights["gradient_norm"].iloc[-1] > 0:
        first, last = weights.iloc[0], weights.iloc[-1]
        alone = " (one batch, so without an interval)" if first.isna()["gradient_norm_std"] else ""
        yield (
            f"The gradient of the first weight layer `{first['name']}` is "
            f"{times(first['gradient_norm'] / last['gradient_norm'])} that of the last, `{last['name']}`{alone}; "
            f"over {len(weights)} layers the largest is {short(spread(weights['gradient_norm']))} times the smallest."
        )
    skips = finite_in(finite_in(own[own["what"] == "skip"], "shortcut_norm"), "branch_norm")
    if len(skips):
        more = int((skips["shortcut_norm"] > skips["branch_norm"]).sum())
        ratio = (skips["shortcut_norm"] / skips["branch_norm"].where(skips["branch_norm"] > 0)).median()
        beside = "" if math.isnan(ratio) else f", in the median {times(ratio)} what comes by the branch"
        yield f"At {more} of {len(skips)} forks more of the gradient comes back by the shortcut{beside}."


def lengths(table: pd.DataFrame) -> Iterator[str]:
    """`weight` rather than `share`, which may be negative and so has no range."""
    known = finite_in(table, "weight").sort_values("length")
    if known.empty:
        yield "The gradient of the input is zero: no path carries any of it."
        return
    low, middle, high = quantiles(known, "weight")
    few, half, many = quantiles(known, "path_share")
    yield (
        f"95 % of the gradient comes by paths through {low} to {high} branches, half of it by paths of at most "
        f"{middle}; of the paths themselves 95 % have {few} to {many}, half at most {half}."
    )


def shattering(table: pd.DataFrame) -> Iterator[str]:
    """At the distance at which the networks differ most."""
    known = finite_in(table, "correlation")
    if known.empty:
        return
    by_distance = known.groupby("distance")["correlation"]
    apart = float((by_distance.max() - by_distance.min()).idxmax())  # type: ignore[arg-type]
    rows = known[known["distance"] == apart]
    parts = [
        f"{row['correlation']:+.2f}{within(interval_of(row, 'correlation'), '+.2f')} in the network {name}"
        for (_, row), name in zip(rows.iterrows(), rows["network"].map(_named), strict=True)
    ]
    yield f"Gradients at inputs that are {apart:g} of their norm apart correlate by {', '.join(parts)}."


def lesion(table: pd.DataFrame) -> Iterator[str]:
    keys = [key for key in ("kind", "batchnorm") if table[key].nunique() > 1]
    groups = table.groupby(keys, sort=False) if keys else [((), table)]
    for key, group in groups:
        known = group[np.isfinite(group["loss_change"])]
        kind = str(group["kind"].iloc[0])
        which = f" (batch norm {key[keys.index('batchnorm')]})" if "batchnorm" in keys else ""
        lost = len(group) - len(known)
        if len(known):
            most = _farthest(known, "loss_change")
            yield (
                f"{_DOING.get(kind, kind)}{which} changes the loss by {known['loss_change'].median():+.3g} in the "
                f"median of {counted(known, 'lesion')}, most at `{most['id']}`: "
                f"{most['loss_change']:+.3g}{within(ends_of(most, 'loss_change'), '+.3g')}; "
                f"{beside_zero([ends_of(row, 'loss_change') for _, row in known.iterrows()])}."
            )
        if "metric_change" in known and len(known):
            worst = _farthest(known, "metric_change")
            yield (
                f"The metric then changes by {known['metric_change'].median():+.3g} in the median, most at "
                f"`{worst['id']}`: {worst['metric_change']:+.3g}{within(ends_of(worst, 'metric_change'), '+.3g')}."
            )
        if lost:
            yield f"In {lost} of {len(group)} lesioned networks{which} the loss is no finite number."
    if "deviation" in table.attrs:
        yield f"Computed in the faster form (--fast), which differs from the exact by {table.attrs['deviation']:.2g}."


_DOING = {
    "branch": "Deleting a branch",
    "shortcut": "Deleting a shortcut",
    "mean": "Replacing a branch by its mean",
    "noise": "Replacing a branch by noise",
    "shuffle": "Giving a branch another sample's values",
    "reorder": "Swapping blocks of the same form",
    "layer": "Deleting a layer",
}


def estimate(table: pd.DataFrame) -> Iterator[str]:
    known = finite_in(table, "loss_change")
    if known.empty:
        return
    most = _farthest(known, "loss_change")
    yield (
        f"Deleting a branch is estimated to change the loss by {known['loss_change'].median():+.3g} in the median of "
        f"{counted(known, 'skip')}, most at `{most['id']}`: {most['loss_change']:+.3g}. These are estimates, "
        f"without an interval{_checked(table.attrs)}."
    )


def similarity(table: pd.DataFrame) -> Iterator[str]:
    pairs = neighbours(finite_in(table, "cka"))
    if len(pairs):
        least = row_at(pairs, pairs["cka"].argmin())
        yield (
            f"From one skip to the next the features' similarity (CKA) is {pairs['cka'].median():.2f} in the median of "
            f"{counted(pairs, 'step')}, least from `{least['id']}` to `{least['other']}`: {least['cka']:.2f}."
        )


def probe(table: pd.DataFrame) -> Iterator[str]:
    known = finite_in(table, "accuracy").sort_values("order")
    if known.empty:
        return
    first, last = known.iloc[0], known.iloc[-1]
    start, end = ends_of(first, "accuracy"), ends_of(last, "accuracy")
    overlap = "; the two intervals overlap" if start[1] >= end[0] and end[1] >= start[0] else ""
    yield (
        f"A linear classifier of the features is right for {first['accuracy']:.0%}{within(start, '.0%')} of held-out "
        f"samples at `{first['id']}` and for {last['accuracy']:.0%}{within(end, '.0%')} at `{last['id']}`{overlap}."
    )


def spectrum(table: pd.DataFrame) -> Iterator[str]:
    own = finite_in(table[(table["network"] == ORIGINAL) & (table["id"] != NETWORK)], "mean_square")
    if len(own):
        intervals = [interval_of(row, "mean_square") for _, row in own.iterrows()]
        outside = sum(low > 1 or high < 1 for low, high in intervals)
        yield (
            f"The mean squared singular value of a block's Jacobian is {short(own['mean_square'].median())} in the "
            f"median of {counted(own, 'skip')} (1 keeps the size of a small change): {extremes(own, 'mean_square')}; "
            f"{outside} of {len(own)} intervals of 95 % exclude 1."
        )
    whole = table[table["id"] == NETWORK].set_index("network")["mean_square"]
    if whole.notna().all() and {ORIGINAL, PLAIN} <= set(whole.index):
        yield (f"Of the whole network it is {short(whole[ORIGINAL])}, and {short(whole[PLAIN])} without the shortcuts.")


def linearity(table: pd.DataFrame) -> Iterator[str]:
    known = finite_in(table[table["id"] != NETWORK], "nonlinearity")
    if known.empty:
        return
    few = int((known["rows"] < known["features"]).sum())
    bound = f"; in {few} an upper bound, since there are fewer samples than features" if few else ""
    yield (
        f"The best linear map leaves {known['nonlinearity'].median():.0%} of what a block does unexplained in the "
        f"median of {counted(known, 'skip')}: {extremes(known, 'nonlinearity', '.0%')}{bound}."
    )
    bend = finite_in(known, "bend")
    if len(bend):
        middle, span = short(bend["bend"].median()), extremes(bend, "bend")
        yield f"Its bend halfway between two inputs, which needs no fit, is {middle} in the median: {span}."


def cost(table: pd.DataFrame) -> Iterator[str]:
    held = finite_in(table, "held_bytes")
    if len(held):
        most = row_at(held, held["held_bytes"].argmax())
        yield (
            f"The shortcut that holds most memory in a forward pass is `{most['id']}`: "
            f"{memory(float(most['held_bytes']))} for one sample, over {int(most['held_ops'])} operations."
        )
    shares = finite_in(table, "share_of_time")
    if len(shares):
        yield f"Of the whole network's time a branch takes {extremes(shares, 'share_of_time', '.1%')}."


def _farthest(table: pd.DataFrame, column: str) -> pd.Series:
    """Where the change is largest, up or down."""
    return row_at(table, table[column].abs().argmax())


def neighbours(table: pd.DataFrame) -> pd.DataFrame:
    """Of all pairs those of one skip and the next."""
    places = sorted({*table["order"], *table["other_order"]})
    after = dict(pairwise(places))
    return table[table["other_order"] == table["order"].map(after)]


def _named(network: Any) -> str:
    return str(network) if network == ORIGINAL else f"`{network}`"


def _checked(attrs: Mapping[Any, Any]) -> str:
    rank = attrs.get("spearman")
    if rank is None or math.isnan(rank):
        return ""
    return f"; on {attrs.get('checked')} skips that were also deleted, the two rank alike by {rank:.2f} (Spearman)"
