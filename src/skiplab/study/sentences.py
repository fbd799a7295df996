"""Sentences about runs, computed from their tables: the answer first, then the numbers, the interval last."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import pandas as pd

from skiplab.stats.intervals import Interval, paired, student
from skiplab.study.by_seed import RowFilter, select_rows, values_by_seed
from skiplab.study.question import network_name

Sign = Literal["below", "above", "neither"]
UNLEARNED_ERROR = 0.5  # training error above which a network counts as not trained
MAX_NAMED = 6  # networks listed in one sentence

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def diverged_sentences(runs: pd.DataFrame, axes: Sequence[str]) -> Iterator[str]:
    """One sentence for each network with a diverged run."""
    for _, group in runs.groupby(["variant", *axes], sort=False):
        lost = int((group["status"] == "diverged").sum())
        if lost:
            name = network_name(group.to_dict("records")[0], axes)
            yield f"{name} diverged in {lost} of {len(group)} runs. Its other numbers are those of the remaining runs."


def unlearned_sentences(runs: pd.DataFrame, axes: Sequence[str]) -> Iterator[str]:
    """One sentence that lists the networks with a training error above `UNLEARNED_ERROR`, if there are any."""
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
            f"Not trained (training error above {100 * UNLEARNED_ERROR:g} %): {', '.join(stuck[:MAX_NAMED])}{more}. "
            "Measurements of these networks do not describe a trained network."
        )


def parameter_sentences(runs: pd.DataFrame, axes: Sequence[str]) -> Iterator[str]:
    """Whether variants that agree in every axis have the same number of parameters."""
    counts = runs.groupby(["variant", *axes], sort=False)["parameters"].first().reset_index()
    if counts["variant"].nunique() < 2:
        return
    shown_axes = [name for name in axes if _changes_size(counts, name, axes)]
    groups = [group for _, group in counts.groupby(list(axes), sort=False)] if axes else [counts]
    pairs = []
    for group in groups:
        ordered = group.sort_values("parameters").to_dict("records")
        pairs.append((ordered[-1]["parameters"] / ordered[0]["parameters"] - 1, ordered[-1], ordered[0]))
    share, most, least = max(pairs, key=lambda pair: pair[0])
    if share == 0:
        yield "All variants have the same number of parameters."
        return
    excess = f"{format_short(100 * share)} % more" if share < 1 else f"{format_short(1 + share)} times as many"
    yield (
        f"The variants differ in their number of parameters: at most {excess} "
        f"({network_name(most, shown_axes)} {most['parameters']:,}, "
        f"{network_name(least, shown_axes)} {least['parameters']:,})."
    )


def _changes_size(counts: pd.DataFrame, name: str, axes: Sequence[str]) -> bool:
    """Whether networks that differ in this axis alone have different numbers of parameters."""
    other = ["variant", *(axis for axis in axes if axis != name)]
    return bool((counts.groupby(other, sort=False)["parameters"].nunique() > 1).any())


def compare_shares(runs: pd.DataFrame, a: RowFilter, b: RowFilter, column: str, what: str) -> str:
    """A share in two networks, paired by seed: "Test error: 67.6 % in plain-50, 2.5 % in post-activation-50; …"."""
    first, second = values_by_seed(runs, column, a), values_by_seed(runs, column, b)
    values = f"{format_percent(student(first))} in {network_name(a)}, {format_percent(student(second))} in "
    return f"{what[:1].upper()}{what[1:]}: {values}{network_name(b)}; {format_difference(paired(first, second))}"


def most_linear_path_sentence(census: pd.DataFrame, networks: Sequence[RowFilter]) -> str:
    """The number of nonlinearities on each network's most linear path."""
    parts = [
        f"{int(select_rows(census, network)['fewest'].iloc[0])} in {network_name(network)}" for network in networks
    ]
    return f"Nonlinearities on the most linear path from input to output: {', '.join(parts)}."


def lesion_sentences(tables: Mapping[str, pd.DataFrame], network: RowFilter) -> Iterator[str]:
    """How deleting one branch changes the test error of a trained network, if that was measured."""
    if "lesion" not in tables or (own := select_rows(tables["lesion"], network)).empty:
        return
    by_block = own.groupby("id", sort=False)["error_change"].mean()
    mean = student(own.groupby("seed")["error_change"].mean())
    largest = f"`{by_block.idxmax()}` ({100 * by_block.max():+z.1f})"
    where = f"mean over {len(by_block)} blocks; largest at {largest}" if len(by_block) > 1 else f"only block: {largest}"
    unclear = " (no clear change)" if mean.known and not mean.excludes(0) else ""
    yield (
        f"Deleting one branch of trained {network_name(network)} changes its test error by "
        f"{format_points(mean)}{unclear}; {where}."
    )


def format_percent(value: Interval) -> str:
    """A share as a percentage with half of its interval: "41.2 % ± 6.0"."""
    if math.isnan(value.mean):
        return "no value"
    return f"{100 * value.mean:.1f} %" + (f" ± {100 * value.half:.1f}" if value.known else "")


def format_number(value: Interval) -> str:
    """A number with half of its interval: "0.93 ± 0.02". The interval of a geometric mean is not symmetric."""
    if math.isnan(value.mean):
        return "no value"
    return f"{value.mean:.3g}" + (f" ± {value.half:.2g}" if value.known else "")


def compare_values(a: pd.Series, b: pd.Series) -> str:
    """Two values of each seed and their paired difference: "0.30 ± 0.04 against 0.10 ± 0.02; difference +0.2 (…)."."""
    change = paired(a, b)
    values = f"{format_number(student(a))} against {format_number(student(b))}"
    if not change.known:
        return f"{values}; no interval from fewer than two seeds."
    interval = f"95 % interval {change.low:+.2g} to {change.high:+.2g}, paired by seed"
    if not change.excludes(0):
        return f"{values}; no clear difference ({change.mean:+.2g}; {interval})."
    return f"{values}; difference {change.mean:+.2g} ({interval})."


def format_points(value: Interval) -> str:
    """A difference of shares in percentage points: "+3.1 points (95 % interval +2.0 to +4.2)"."""
    if math.isnan(value.mean):
        return "no value"
    text = f"{100 * value.mean:+z.1f} points"
    if not value.known:
        return f"{text} on a single seed"
    return f"{text} (95 % interval {100 * value.low:+z.1f} to {100 * value.high:+z.1f})"


def format_difference(change: Interval) -> str:
    """A paired difference of shares, with its interval and effect size; "no clear difference" if that includes 0."""
    if math.isnan(change.mean):
        return "no difference can be computed, since no seed has both values."
    if not change.known:
        return f"{100 * change.mean:+z.1f} points on a single seed, which gives no interval."
    interval = f"95 % interval {100 * change.low:+z.1f} to {100 * change.high:+z.1f}, paired over {change.count} seeds"
    if change.low == change.high == 0:
        return f"no difference in any of {change.count} seeds."
    if not change.excludes(0):
        return f"no clear difference ({100 * change.mean:+z.1f} points; {interval})."
    size = f"; effect size {format_short(abs(change.effect))}" if math.isfinite(change.effect) else ""
    return f"difference {100 * change.mean:+z.1f} points ({interval}{size})."


def format_headline(change: Interval, above: str, below: str, neither: str) -> str:
    """The headline for the sign of a difference's interval, then the difference: "…: difference +3.1 points …"."""
    if not change.excludes(0):
        unclear = change.known and change.low < change.high
        return f"{neither}: {f'{format_points(change)}.' if unclear else format_difference(change)}"
    return f"{above if change.mean > 0 else below}: {format_difference(change)}"


def group_by_sign(found: Iterable[tuple[Interval, str]], words: Mapping[Sign, str], value: float = 0.0) -> str:
    """Names grouped by the side of `value` on which their intervals lie: "lower in a, b; higher in c"."""
    parts: dict[str, list[str]] = {word: [] for word in words.values()}
    for interval, name in found:
        sign: Sign = "neither" if not interval.excludes(value) else "above" if interval.low > value else "below"
        parts[words[sign]].append(name)
    return "; ".join(f"{word} {', '.join(names)}" for word, names in parts.items() if names)


def format_ratio(ratio: Interval) -> str:
    """A ratio in words: "9,000 times larger than", or "not clearly different from" if its interval includes 1."""
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
        return f"not clearly different ({number} times {word}; {interval}) from"
    return f"{number} times {word} ({interval}) than"


def format_short(number: float) -> str:
    """Two significant digits below 100, whole numbers above, and powers of ten from a million: "3.4·10⁹"."""
    if not 1e6 <= number < math.inf:
        return f"{number:,.0f}" if number >= 99.5 else f"{number:.2g}"
    digits, _, power = f"{number:.1e}".partition("e+")
    return f"{digits}·10{str(int(power)).translate(_SUPERSCRIPTS)}"
