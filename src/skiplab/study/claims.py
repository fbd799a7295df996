"""What papers claim, beside what was found here."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import pandas as pd

from skiplab.stats.intervals import Interval

Agrees = Literal["yes", "no", "not shown"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A paper's claim and its counterpart here.

    Attributes:
        claim: what the paper says, in a sentence with its figures.
        source: the paper, with section or table.
        found: the same quantity here, with its interval.
        agrees: "not shown" where the interval allows both.
    """

    claim: str
    source: str
    found: str
    agrees: Agrees


def agreement(found: Interval, expected: Literal["above", "below", "same"], value: float = 0.0) -> Agrees:
    """Whether an interval bears out that the true number lies above, below or at `value`.

    "same" is borne out by an interval that includes the value, which is weak: a wide one includes anything, so
    the sentence beside it must tell the interval.
    """
    if not found.known:
        return "not shown"
    if not found.excludes(value):
        return "yes" if expected == "same" else "not shown"
    side = "above" if found.low > value else "below"
    return "yes" if side == expected else "no"


def negate(agrees: Agrees) -> Agrees:
    """What is said of a claim when its opposite agrees so."""
    opposite: dict[Agrees, Agrees] = {"yes": "no", "no": "yes", "not shown": "not shown"}
    return opposite[agrees]


def equivalence(found: Interval, within: float) -> Agrees:
    """Whether a difference is borne out to be smaller than `within`: its whole interval must be."""
    if found.known and -within < found.low and found.high < within:
        return "yes"
    return "no" if found.low > within or found.high < -within else "not shown"


def claims_table(claims: Iterable[Claim]) -> pd.DataFrame:
    """One row a claim."""
    rows = [asdict(claim) for claim in claims]
    return pd.DataFrame(rows, columns=["claim", "source", "found", "agrees"])
