"""The result of a proof: one row per skip."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import pandas as pd

from skiplab.io.json_values import finite_or_none

SCHEMA = "skiplab.proof/1"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the record of one skip is right.

    Attributes:
        id: id of the skip.
        claimed: kind of the shortcut in the record.
        found: the narrowest kind that the numbers allow: identity, resample, projection, gated or nonlinear;
            None where nothing could be computed. A resample may be an identity at these sizes (padding by
            nothing), and then the record is right too.
        deviation: largest relative deviation from the claimed kind, dimensionless: ‖difference‖∞ / ‖Ju‖∞ over all
            points and all properties of the kind; for a fused recurrent operator, the deviation of its outputs from
            those of the cell written as a gated sum. NaN where nothing could be computed.
        ok: whether the record is right.
        reason: the difference from the record, or why nothing could be computed; "" if the record is right.
    """

    id: str
    claimed: str
    found: str | None
    deviation: float
    ok: bool
    reason: str


@dataclass(frozen=True)
class Proof:
    """Every skip's verdict, in the order of the skips.

    Attributes:
        rows: the verdicts.
        points: number of random points at which each was computed.
        tolerance: relative deviations up to this one count as rounding.
    """

    rows: tuple[Verdict, ...]
    points: int
    tolerance: float

    @property
    def ok(self) -> bool:
        return not self.failures

    @property
    def deviation(self) -> float:
        """The largest deviation that was computed; 0 if there is none."""
        return max((row.deviation for row in self.rows if not math.isnan(row.deviation)), default=0.0)

    @property
    def failures(self) -> tuple[Verdict, ...]:
        """The verdicts on records that are wrong, or that could not be proved."""
        return tuple(row for row in self.rows if not row.ok)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self.rows)

    def __repr__(self) -> str:
        proved = len(self.rows) - len(self.failures)
        return f"<Proof: {proved} of {len(self.rows)} skips proved, largest deviation {self.deviation:.1e}>"

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False)

    def table(self) -> pd.DataFrame:
        """One row per skip; the columns are the attributes of `Verdict`."""
        return pd.DataFrame([asdict(row) for row in self.rows], columns=[field.name for field in fields(Verdict)])


def proof_json(proof: Proof) -> dict[str, Any]:
    """A proof as JSON; a deviation that is no finite number is null."""
    return {
        "schema": SCHEMA,
        "ok": proof.ok,
        "points": proof.points,
        "tolerance": proof.tolerance,
        "deviation": finite_or_none(proof.deviation),
        "skips": [{**asdict(row), "deviation": finite_or_none(row.deviation)} for row in proof.rows],
    }
