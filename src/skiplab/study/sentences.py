"""Sentences about runs, computed from their tables. Where an interval includes zero, they say so."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from skiplab.stats.intervals import Interval, paired, student
from skiplab.study.question import network_name

RowFilter = Mapping[Any, Any]
Sign = Literal["below", "above", "neither"]
UNLEARNED_ERROR = 0.5  # of the training part
MAX_NAMED = 6  # networks in one sentence

_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def values_by_seed(table: pd.DataFrame, column: str, where: RowFilter) -> pd.Series:
    """A column of the rows that have these values, indexed by seed; several rows of a seed give their mean."""
    return select_rows(table, where).groupby("seed")[column].mean().astype(float)


def select_rows(table: pd.DataFrame, where: RowFilter) -> pd.DataFrame:
    """The rows that have these values."""
    for name, value in where.items():
        table = table[table[name] == value]
    return table


def diverged_sentences(runs: pd.DataFrame, axes: Sequence[str]) -> Iterator[str]:
    """A sentence for each network of which a run diverged."""
    for _, group in runs.groupby(["variant", *axes], sort=False):
        lost = int((group["status"] == "diverged").sum())
        if lost:
            name = network_name(group.to_dict("records")[0], axes)
            yield f"{name} diverged in {lost} of {len(group)} runs; its other numbers are of the runs that did not."


def unlearned_sentences(runs: pd.DataFrame, axes: Sequence[str]) -> Iterator[str]:
    """A sentence that names the networks that err on most of their own training part, if there are any."""
    if "train_error" not in runs:
        return
    stuck = []
    for _, group in runs.groupby(["variant", *axes], sort=False):
        error = student(group["train_error"])
        if error.mean > UNLEARNED_ERROR:
            stuck.append(f"{network_name(group.to_dict('records')[0], axes)} ({format_percent(error)})")
    if stuck:
        more = f" and {len(stuck) - MAX_NAMED} more" if len(stuck) > MAX_NAMED else ""
        yield (
            f"Not learned, with a training error above {100 * UNLEARNED_ERROR:g} %: "
            f"{', '.join(stuck[:MAX_NAMED])}{more}. What is measured in such a network says nothing of one that has "
            "learned."
        )


def parameter_sentences(runs: pd.DataFrame, axes: Sequence[str]) -> Iterator[str]:
    """Whether what is compared has as many parameters: networks of different variants, all else being equal."""
    counts = runs.groupby(["variant", *axes], sort=False)["parameters"].first().reset_index()
    if counts["variant"].nunique() < 2:
        return
    matter = [name for name in axes if _changes_size(counts, name, axes)]
    groups = [group for _, group in counts.groupby(list(axes), sort=False)] if axes else [counts]
    pairs = []
    for group in groups:
        ordered = group.sort_values("parameters").to_dict("records")
        pairs.append((ordered[-1]["parameters"] / ordered[0]["parameters"] - 1, ordered[-1], ordered[0]))
    share, most, least = max(pairs, key=lambda pair: pair[0])
    if share == 0:
        yield "The variants compared have equally many parameters."
        return
    told = f"{format_short(100 * share)} % more" if share < 1 else f"{format_short(1 + share)} times as many"
    yield (
        f"The variants compared do not have equally many parameters: at most {told} "
        f"({network_name(most, matter)} {most['parameters']:,}, {network_name(least, matter)} {least['parameters']:,})."
    )


def _changes_size(counts: pd.DataFrame, name: str, axes: Sequence[str]) -> bool:
    """Whether networks that differ in this axis alone have other numbers of parameters."""
    alike = ["variant", *(axis for axis in axes if axis != name)]
    return bool((counts.groupby(alike, sort=False)["parameters"].nunique() > 1).any())


def compare_shares(runs: pd.DataFrame, a: RowFilter, b: RowFilter, column: str, what: str) -> str:
    """Two networks, paired by seed, by a share; `a` and `b` say which: {"variant": "plain", "depth": 50}."""
    first, second = values_by_seed(runs, column, a), values_by_seed(runs, column, b)
    reached = f"{network_name(a)} reaches {format_percent(student(first))} {what}"
    beside = f"{network_name(b)} reaches {format_percent(student(second))}"
    return f"{reached} where {beside}: {format_difference(paired(first, second))}"


def most_linear_path_sentence(census: pd.DataFrame, networks: Sequence[RowFilter]) -> str:
    """How many nonlinearities each network's lightest path has."""
    parts = [
        f"{int(select_rows(census, network)['fewest'].iloc[0])} in {network_name(network)}" for network in networks
    ]
    return f"Nonlinearities on the lightest path from input to output: {', '.join(parts)}."


def lesion_sentences(tables: Mapping[str, pd.DataFrame], network: RowFilter) -> Iterator[str]:
    """What deleting single branches does to one network, where that was measured."""
    if "lesion" not in tables or (own := select_rows(tables["lesion"], network)).empty:
        return
    by_block = own.groupby("id", sort=False)["error_change"].mean()
    mean = student(own.groupby("seed")["error_change"].mean())
    doing = f"Deleting one branch of the trained {network_name(network)}"
    most = f"on average over its {len(by_block)} blocks, most at `{by_block.idxmax()}` ({100 * by_block.max():+z.1f})"
    where = most if len(by_block) > 1 else f"at `{by_block.idxmax()}`, its only one"
    if mean.known and not mean.excludes(0):
        yield f"{doing} is not shown to change its test error: {format_points(mean)}, includes zero, {where}."
    else:
        yield f"{doing} changes its test error by {format_points(mean)} {where}."


def format_percent(value: Interval) -> str:
    """ "41.2 % ± 6.0": a share as a percentage with half its interval."""
    if math.isnan(value.mean):
        return "no"
    return f"{100 * value.mean:.1f} %" + (f" ± {100 * value.half:.1f}" if value.known else "")


def format_number(value: Interval) -> str:
    """ "0.93 ± 0.02": a number with half its interval, which may be lopsided where the mean is a geometric one."""
    if math.isnan(value.mean):
        return "no number"
    return f"{value.mean:.3g}" + (f" ± {value.half:.2g}" if value.known else "")


def compare_values(a: pd.Series, b: pd.Series, word: str = "against") -> str:
    """Numbers of each seed in two situations, and how they differ: "0.30 ± 0.04 against 0.10 ± 0.02: …"."""
    change = paired(a, b)
    ends = f"{format_number(student(a))} {word} {format_number(student(b))}"
    if not change.known:
        return f"{ends}, on fewer than two seeds, which give no interval."
    interval = f"{change.mean:+.2g}, 95 % interval {change.low:+.2g} to {change.high:+.2g}, paired by seed"
    if not change.excludes(0):
        return f"{ends}: no difference is shown ({interval}, includes zero)."
    return f"{ends}: a difference of {interval}."


def format_points(value: Interval) -> str:
    """A difference of shares in percentage points, with its interval."""
    if math.isnan(value.mean):
        return "no number"
    text = f"{100 * value.mean:+z.1f} points"
    if not value.known:
        return f"{text} on a single seed"
    return f"{text} (95 % interval {100 * value.low:+z.1f} to {100 * value.high:+z.1f})"


def format_difference(change: Interval) -> str:
    """A paired difference in words, which are about its interval and not about its mean."""
    if math.isnan(change.mean):
        return "no difference can be computed, since no seed gave both."
    if not change.known:
        return f"{100 * change.mean:+z.1f} points on a single seed, which gives no interval."
    interval = f"95 % interval {100 * change.low:+z.1f} to {100 * change.high:+z.1f}, paired over {change.count} seeds"
    if change.low == change.high == 0:
        return f"no difference in any of {change.count} seeds."
    if not change.excludes(0):
        return f"no difference is shown ({100 * change.mean:+z.1f} points; {interval}, includes zero)."
    size = f"; effect size {format_short(abs(change.effect))}" if math.isfinite(change.effect) else ""
    return f"a difference of {100 * change.mean:+z.1f} points ({interval}{size})."


def format_headline(change: Interval, above: str, below: str, neither: str) -> str:
    """The headline that a difference's interval bears out, and the difference: "…: a difference of +3.1 points …"."""
    if not change.excludes(0):
        includes = change.known and change.low < change.high
        return f"{neither}: {f'{format_points(change)}, includes zero.' if includes else format_difference(change)}"
    return f"{above if change.mean > 0 else below}: {format_difference(change)}"


def group_by_sign(found: Iterable[tuple[Interval, str]], words: Mapping[Sign, str], value: float = 0.0) -> str:
    """What intervals are of, by the side of `value` on which they lie: "lower in a, b; higher in c"."""
    parts: dict[str, list[str]] = {word: [] for word in words.values()}
    for interval, what in found:
        side: Sign = "neither" if not interval.excludes(value) else "above" if interval.low > value else "below"
        parts[words[side]].append(what)
    return "; ".join(f"{word} {', '.join(each)}" for word, each in parts.items() if each)


def format_ratio(ratio: Interval) -> str:
    """A ratio in words: "9,000 times larger than", or that it cannot be told from 1."""
    if math.isnan(ratio.mean):
        return "not comparable to"
    factor = ratio.mean if ratio.mean >= 1 else 1 / ratio.mean
    word = "larger" if ratio.mean >= 1 else "smaller"
    number = format_short(factor) if factor >= 1.05 else f"{factor:.3g}"
    if not ratio.known:
        return f"{number} times {word} (on a single seed) than"
    low, high = sorted((ratio.low, ratio.high)) if ratio.mean >= 1 else sorted((1 / ratio.low, 1 / ratio.high))
    interval = f"95 % interval {format_short(low)} to {format_short(high)}"
    if not ratio.excludes(1):
        return f"not shown to differ ({number} times {word}; {interval}, includes 1) from"
    return f"{number} times {word} ({interval}) than"


def format_short(number: float) -> str:
    """Two significant digits below 100, whole numbers above, and from a million on powers of ten: "3.4·10⁹"."""
    if not 1e6 <= number < math.inf:
        return f"{number:,.0f}" if number >= 99.5 else f"{number:.2g}"
    digits, _, power = f"{number:.1e}".partition("e+")
    return f"{digits}·10{str(int(power)).translate(_RAISED)}"
