"""Claims of papers, each next to the same quantity measured here."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import pandas as pd

from skiplab.stats.intervals import Interval

Agrees = Literal["yes", "no", "not shown"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A paper's claim and the same quantity measured here.

    Attributes:
        claim: what the paper reports, in one sentence with its numbers.
        source: the paper, with section or table.
        found: the same quantity here, with its interval.
        agrees: "not shown" where the interval allows both.
    """

    claim: str
    source: str
    found: str
    agrees: Agrees


def agreement(found: Interval, expected: Literal["above", "below", "same"], value: float = 0.0) -> Agrees:
    """Whether an interval supports that the true number is above, below or equal to `value`.

    An interval that includes `value` supports "same". This is weak evidence, since a wide interval includes anything:
    the text next to it must give the interval.
    """
    if not found.known:
        return "not shown"
    if not found.excludes(value):
        return "yes" if expected == "same" else "not shown"
    side = "above" if found.low > value else "below"
    return "yes" if side == expected else "no"


def negate(agrees: Agrees) -> Agrees:
    """The agreement with the opposite claim."""
    opposite: dict[Agrees, Agrees] = {"yes": "no", "no": "yes", "not shown": "not shown"}
    return opposite[agrees]


def equivalence(found: Interval, within: float) -> Agrees:
    """Whether a difference is smaller than `within`: "yes" if its whole interval is, "no" if no part of it is."""
    if found.known and -within < found.low and found.high < within:
        return "yes"
    return "no" if found.low > within or found.high < -within else "not shown"


def claims_table(claims: Iterable[Claim]) -> pd.DataFrame:
    """One row per claim."""
    rows = [asdict(claim) for claim in claims]
    return pd.DataFrame(rows, columns=["claim", "source", "found", "agrees"])
