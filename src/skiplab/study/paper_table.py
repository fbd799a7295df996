"""A table that a paper has published, beside the same networks at a size that is trained here.

Figures of other data and other sizes cannot be compared, but their order can: which variant is better than which.
Where a paper only says that a network failed, it is behind all that did not, and level with others that failed.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from skiplab.report.figure_spec import Figure
from skiplab.stats.intervals import Interval, paired, student
from skiplab.study.claims import Claim, agreement
from skiplab.study.question import Tables
from skiplab.study.sentences import format_difference, format_percent, format_points, values_by_seed

STRONG = 0.5  # a rank correlation, from which on an order is said to hold
FAILED = math.inf  # what a paper gives no figure for, since it was that bad
Order = Literal["as in the paper", "opposite", "not shown"]
FIGURES = (
    Figure(
        name="paper",
        heading="The paper's table beside these runs",
        how="Test errors: the paper's in per cent, ours as mean ± half of the 95 % interval over seeds, and less the "
        "reference's, paired by seed. Data, width and training differ, so that only the order can be compared.",
        chart="table",
        table="paper",
    ),
    Figure(
        name="ordering",
        heading="Does the order hold?",
        how="Spearman's rank correlation of each seed's errors with the paper's, its mean and 95 % interval over "
        "seeds; and how many of the pairs that the paper orders are shown in which order by an interval that "
        "excludes zero.",
        chart="table",
        table="ordering",
    ),
    Figure(
        name="pairs",
        heading="Pair by pair",
        how="Each two variants of which the paper calls one better: the test error of the worse less that of the "
        "better, as found here, paired by seed, with its 95 % interval.",
        chart="table",
        table="pairs",
        folded=True,
    ),
)


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A paper's table of test errors.

    Attributes:
        source: the paper, with the table.
        network: whose errors they are, and on what data.
        reference: the variant that the paper holds the others against.
        errors: of each variant, in per cent; `FAILED` where the paper gives none.
        failed: from which error on it gives none, in per cent.
        columns: what more is shown of each variant, by heading.
    """

    source: str
    network: str
    reference: str
    errors: Mapping[str, float]
    failed: float = 100.0
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def told(self, variant: str) -> str:
        """ "6.61", or "fail (> 20)"."""
        error = self.errors[variant]
        return f"fail (> {self.failed:g})" if error == FAILED else f"{error:.2f}"


def add_paper_tables(published: PaperTable, tables: Tables) -> Tables:
    """The tables, with `paper` (a row a network), `pairs` (a row a pair that the paper orders) and `ordering`."""
    runs = tables["runs"]
    ordered = pair_table(published, runs)
    return {
        **tables,
        "paper": _paper_rows(published, runs),
        "pairs": ordered,
        "ordering": _ordering_rows(published, runs, ordered),
    }


def pair_table(published: PaperTable, runs: pd.DataFrame) -> pd.DataFrame:
    """Every two variants of which the paper calls one better, at each depth.

    `difference` with `low` and `high` is the test error of `worse` less that of `better`, as a share, with its 95 %
    interval paired by seed; `order` is what the interval says of the paper's order.
    """
    rows = []
    for depth, (one, other) in itertools.product(_depths(runs), itertools.combinations(_variants(published, runs), 2)):
        if published.errors[one] == published.errors[other]:
            continue
        better, worse = sorted((one, other), key=published.errors.__getitem__)
        found = _paired_difference(runs, worse, better, depth)
        place = {"depth": depth, "better": better, "worse": worse}
        paper = {"paper_better": published.told(better), "paper_worse": published.told(worse)}
        ours = {"difference": found.mean, "low": found.low, "high": found.high}
        rows.append({**place, **paper, **ours, "order": _order(found)})
    return pd.DataFrame(
        rows, columns=["depth", "better", "worse", "paper_better", "paper_worse", "difference", "low", "high", "order"]
    )


def rank_correlation(published: PaperTable, runs: pd.DataFrame, depth: int) -> Interval:
    """Spearman's rank correlation of each seed's test errors with the paper's, dimensionless; interval over seeds.

    A run that diverged is behind all others. A seed's luck lowers its correlation, so the mean is on the low side.
    """
    paper = pd.Series({name: published.errors[name] for name in _variants(published, runs)}).rank()
    at = runs[runs["depth"] == depth]
    found = []
    for _, seed in at.groupby("seed"):
        ours = seed.set_index("variant")["test_error"].astype(float).fillna(math.inf).rank()
        known = ours.index.intersection(paper.index)
        a, b = paper[known].rank(), ours[known].rank()
        found.append(a.corr(b) if len(known) > 2 and min(a.nunique(), b.nunique()) > 1 else math.nan)
    return student(found)


def sentences(published: PaperTable, tables: Tables) -> Iterator[str]:
    """Whether the paper's reference is best here, and whether the paper's order holds, deepest networks first."""
    runs = tables["runs"]
    yield from reference_sentences(published, runs)
    for row in reversed(tables["ordering"].to_dict("records")):
        yield _order_sentence(row)
    for depth in reversed(_depths(runs)):
        yield from _opposite_pairs(tables["pairs"], depth)


def reference_sentences(
    published: PaperTable, runs: pd.DataFrame, column: str = "test_error", what: str = "test error"
) -> Iterator[str]:
    """Which variants an interval shows to be worse or better than the paper's reference, at each depth."""
    names, reference = _variants(published, runs), published.reference
    if reference not in names or len(names) < 2:
        return
    for depth in reversed(_depths(runs)):
        own = format_percent(student(values_by_seed(runs, column, {"variant": reference, "depth": depth})))
        sorts: dict[str, list[str]] = {}
        for name in names:
            if name != reference:
                sort, told = _group_and_change(_paired_difference(runs, name, reference, depth, column))
                sorts.setdefault(sort, []).append(f"{name}{told}")
        parts = [f"{words}: {', '.join(sorts[words])}" for words in _GROUPS if words in sorts]
        worse, better, _, unknown = _GROUPS
        best = " None is shown to be better." if worse in sorts and not {better, unknown} & set(sorts) else ""
        yield f"At {depth} layers {reference} reaches {own} {what}. Against it, {'; '.join(parts)}.{best}"


def reference_claims(published: PaperTable, runs: pd.DataFrame) -> Iterator[Claim]:
    """Each variant against the paper's reference, in the deepest networks."""
    depth, names = max(_depths(runs)), _variants(published, runs)
    reference = published.reference
    if reference not in names:
        return
    for name in names:
        if name == reference:
            continue
        worse = published.errors[name] > published.errors[reference]
        figures = f"{published.told(name)} % against {published.told(reference)} %".replace(") %", " %)")
        found = _paired_difference(runs, name, reference, depth)
        yield Claim(
            claim=f"{published.network}: {name} is {'worse' if worse else 'better'} than {reference}, {figures}.",
            source=published.source,
            found=f"{name} against {reference} at {depth} layers: {format_difference(found)}",
            agrees=agreement(found, "above" if worse else "below"),
        )


def _variants(published: PaperTable, runs: pd.DataFrame) -> list[str]:
    """Those that were run, in the paper's order of rows."""
    there = set(runs["variant"])
    return [name for name in published.errors if name in there]


def _depths(runs: pd.DataFrame) -> list[int]:
    return sorted(int(depth) for depth in runs["depth"].unique())


def _paired_difference(runs: pd.DataFrame, a: str, b: str, depth: int, column: str = "test_error") -> Interval:
    one, other = (values_by_seed(runs, column, {"variant": name, "depth": depth}) for name in (a, b))
    return paired(one, other)


def _order(worse_less_better: Interval) -> Order:
    if not worse_less_better.excludes(0):
        return "not shown"
    return "as in the paper" if worse_less_better.low > 0 else "opposite"


def _paper_rows(published: PaperTable, runs: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for depth, name in itertools.product(_depths(runs), _variants(published, runs)):
        own = runs[(runs["variant"] == name) & (runs["depth"] == depth)]
        row: dict[str, Any] = {"depth": depth, "variant": name}
        row |= {heading: shown.get(name, "") for heading, shown in published.columns.items()}
        row[f"paper %, {published.network}"] = published.told(name)
        row["here"] = format_percent(student(own["test_error"]))
        row["diverged"] = f"{int((own['status'] == 'diverged').sum())} of {len(own)}"
        if name != published.reference and published.reference in set(runs["variant"]):
            row[f"less {published.reference}"] = format_points(
                _paired_difference(runs, name, published.reference, depth)
            )
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def _ordering_rows(published: PaperTable, runs: pd.DataFrame, ordered: pd.DataFrame) -> pd.DataFrame:
    """One row a depth: the rank correlation with its interval, and how many pairs are in which order."""
    rows = []
    for depth in _depths(runs):
        found = rank_correlation(published, runs, depth)
        counts = ordered[ordered["depth"] == depth]["order"].value_counts()
        row: dict[str, Any] = {"depth": depth, "seeds": found.count, "rank_correlation": found.mean}
        row |= {"low": _clip_correlation(found.low), "high": _clip_correlation(found.high)}
        row |= {name: int(counts.get(name, 0)) for name in ("as in the paper", "opposite", "not shown")}
        rows.append(row)
    return pd.DataFrame(rows)


def _clip_correlation(end: float) -> float:
    """The end of a correlation's interval, which Student's t may put beyond what a correlation can be."""
    return end if math.isnan(end) else max(-1.0, min(1.0, end))


_GROUPS = (
    "shown to be worse",
    "shown to be better",
    "no difference is shown (the interval includes zero)",
    "too few finished runs for an interval",
)


def _group_and_change(change: Interval) -> tuple[str, str]:
    worse, better, level, unknown = _GROUPS
    if not change.known:
        return unknown, ""
    if not change.excludes(0):
        return level, ""
    return worse if change.low > 0 else better, f" ({100 * change.mean:+.1f} points)"


def _opposite_pairs(ordered: pd.DataFrame, depth: int) -> Iterator[str]:
    """The pairs that an interval shows in the opposite order, which the table of pairs has with their numbers."""
    opposite = ordered[(ordered["depth"] == depth) & (ordered["order"] == "opposite")]
    if len(opposite):
        parts = [
            f"{name} is behind {', '.join(rows['worse'])}" for name, rows in opposite.groupby("better", sort=False)
        ]
        yield f"Against the paper's order at {depth} layers: {'; '.join(parts)}."


def _order_sentence(row: Mapping[Any, Any]) -> str:
    same, opposite, unclear = (int(row[name]) for name in ("as in the paper", "opposite", "not shown"))
    known = Interval(row["rank_correlation"], row["low"], row["high"], int(row["seeds"]))
    start = f"The paper's order at {row['depth']} layers:"
    if not known.known:
        return f"{start} nothing can be said of it, since this takes at least two seeds and three variants."
    interval = f"{known.mean:.2f}, 95 % interval {known.low:.2f} to {known.high:.2f}"
    zero = ""
    if not known.excludes(0):
        held, zero = "is not shown to hold on the whole", ", includes zero"
    elif known.mean < 0:
        held = "is turned around on the whole"
    else:
        held = "holds on the whole" if known.mean >= STRONG else "holds in part"
    total = same + opposite + unclear
    return (
        f"{start} it {held} (rank correlation {interval}{zero}); of the {total} pairs that the paper orders {same} are "
        f"shown in its order, {opposite} in the opposite one, and {unclear} are not shown to differ. Of {total} such "
        f"intervals {0.05 * total:.1f} would exclude zero by chance."
    )
