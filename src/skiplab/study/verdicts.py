"""The sentences of the `depth` study, computed from its tables. Where an interval includes zero, they say so."""

import math
from collections.abc import Iterator

import pandas as pd

from skiplab.study.stats import Interval, paired, paired_ratio, student

PLAIN = "plain"

Tables = dict[str, pd.DataFrame]


def verdicts(tables: Tables) -> Iterator[str]:
    """What the numbers say, for the deepest networks of the grid unless the sentence says otherwise."""
    runs = tables["runs"]
    deepest, shallowest = int(runs["depth"].max()), int(runs["depth"].min())
    variants = list(dict.fromkeys(runs["variant"]))
    others = [variant for variant in variants if variant != PLAIN]
    yield from _diverged(runs)
    for other in others:
        yield _compared(runs, PLAIN, other, deepest, "test_error")
    for other in others:
        yield _compared(runs, PLAIN, other, deepest, "train_error")
    if shallowest < deepest:
        for variant in variants:
            yield _deepened(runs, variant, shallowest, deepest)
    for when in ("initialisation", "trained"):
        for other in others:
            yield _first_gradient(tables["gradient"], other, deepest, when)
    yield _lightest(tables["census"], variants, deepest)
    for other in others:
        yield from _lesions(tables, other, deepest)


def of(runs: pd.DataFrame, variant: str, depth: int, column: str) -> pd.Series:
    """A column of one network, indexed by seed."""
    chosen = runs[(runs["variant"] == variant) & (runs["depth"] == depth)]
    return chosen.set_index("seed")[column].astype(float)


def _diverged(runs: pd.DataFrame) -> Iterator[str]:
    for (variant, depth), group in runs.groupby(["variant", "depth"], sort=False):
        lost = int((group["status"] == "diverged").sum())
        if lost:
            yield (
                f"{variant}-{depth} diverged in {lost} of {len(group)} runs; its other numbers are of the runs "
                "that did not."
            )


def _compared(runs: pd.DataFrame, a: str, b: str, depth: int, column: str) -> str:
    """Two variants at one depth, paired by seed."""
    first, second = of(runs, a, depth, column), of(runs, b, depth, column)
    what = "test error" if column == "test_error" else "training error"
    reached = f"{a}-{depth} reaches {percent(student(first))} {what}"
    beside = f"{b}-{depth} reaches {percent(student(second))}"
    return f"{reached} where {beside}: {difference(paired(first, second))}"


def _deepened(runs: pd.DataFrame, variant: str, shallow: int, deep: int) -> str:
    change = paired(of(runs, variant, deep, "train_error"), of(runs, variant, shallow, "train_error"))
    return f"The training error of {variant}, {deep} layers against {shallow}: {difference(change)}"


def _first_gradient(gradient: pd.DataFrame, other: str, depth: int, when: str) -> str:
    rows = gradient[(gradient["when"] == when) & (gradient["order"] == gradient["order"].min())]
    ratio = paired_ratio(of(rows, PLAIN, depth, "gradient_norm"), of(rows, other, depth, "gradient_norm"))
    moment = "At initialisation" if when == "initialisation" else "After training"
    return f"{moment}, the first layer's gradient in {PLAIN}-{depth} is {times(ratio)} that in {other}-{depth}."


def _lightest(census: pd.DataFrame, variants: list[str], depth: int) -> str:
    fewest = census[census["depth"] == depth].set_index("variant")["fewest"]
    parts = [f"{int(fewest[variant])} in {variant}-{depth}" for variant in variants if variant in fewest]
    return f"Nonlinearities on the lightest path from input to output: {', '.join(parts)}."


def _lesions(tables: Tables, variant: str, depth: int) -> Iterator[str]:
    lesion = tables.get("lesion", pd.DataFrame(columns=["variant", "depth"]))
    chosen = lesion[(lesion["variant"] == variant) & (lesion["depth"] == depth)]
    if chosen.empty:
        return
    by_block = chosen.groupby("id", sort=False)["error_change"].mean()
    mean = student(chosen.groupby("seed")["error_change"].mean())
    doing = f"Deleting one branch of the trained {variant}-{depth}"
    where = f"on average over its {len(by_block)} blocks, most at `{by_block.idxmax()}` ({100 * by_block.max():+.1f})."
    if mean.known and not mean.excludes(0):
        yield f"{doing} is not shown to change its test error ({points(mean)}, includes zero) {where}"
    else:
        yield f"{doing} changes its test error by {points(mean)} {where}"


def percent(value: Interval) -> str:
    """ "41.2 % ± 6.0": a share as a percentage with half its interval."""
    if math.isnan(value.mean):
        return "no"
    return f"{100 * value.mean:.1f} %" + (f" ± {100 * value.half:.1f}" if value.known else "")


def points(value: Interval) -> str:
    """A difference of shares in percentage points, with its interval."""
    text = f"{100 * value.mean:+.1f} points"
    return f"{text} (95 % interval {100 * value.low:+.1f} to {100 * value.high:+.1f})" if value.known else text


def difference(change: Interval) -> str:
    """A paired difference in words, which are about its interval and not about its mean."""
    if math.isnan(change.mean):
        return "no difference can be computed, since no seed gave both."
    if not change.known:
        return f"{100 * change.mean:+.1f} points on a single seed, which gives no interval."
    interval = f"95 % interval {100 * change.low:+.1f} to {100 * change.high:+.1f}, paired over {change.count} seeds"
    if change.low == change.high == 0:
        return f"no difference in any of {change.count} seeds."
    if not change.excludes(0):
        return f"no difference is shown ({100 * change.mean:+.1f} points; {interval}, includes zero)."
    return f"a difference of {100 * change.mean:+.1f} points ({interval})."


def times(ratio: Interval) -> str:
    """A ratio in words: "9,000 times larger than", or that it cannot be told from 1."""
    if math.isnan(ratio.mean):
        return "not comparable to"
    factor = ratio.mean if ratio.mean >= 1 else 1 / ratio.mean
    word = "larger" if ratio.mean >= 1 else "smaller"
    number = _short(factor)
    if not ratio.known:
        return f"{number} times {word} (on a single seed) than"
    low, high = sorted((ratio.low, ratio.high)) if ratio.mean >= 1 else sorted((1 / ratio.low, 1 / ratio.high))
    interval = f"95 % interval {_short(low)} to {_short(high)}"
    if not ratio.excludes(1):
        return f"not shown to differ ({number} times {word}; {interval}, includes 1) from"
    return f"{number} times {word} ({interval}) than"


def _short(number: float) -> str:
    """Two significant digits below 100, whole numbers above."""
    return f"{number:,.0f}" if number >= 99.5 else f"{number:.2g}"
