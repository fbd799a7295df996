"""A table of errors from a paper, compared with the same variants trained here at a smaller size.

Errors on other data and at other sizes cannot be compared, but their order can: which variant is better than which. A
variant for which the paper only reports a failure ranks below all others, and equal to other failures.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from skiplab.report.figure_spec import TEST_ERROR, TRAIN_ERROR, Axis, Figure
from skiplab.stats.intervals import Interval, student
from skiplab.study.by_seed import difference, values_by_seed
from skiplab.study.charts import errors, numbers
from skiplab.study.claims import Claim, agreement
from skiplab.study.question import Tables
from skiplab.study.sentences import format_difference, format_percent, format_points

STRONG = 0.5  # rank correlation from which an order counts as holding
FAILED = math.inf  # error of a variant for which the paper reports a failure instead of a number
Order = Literal["as in the paper", "opposite", "not shown"]
OUTCOMES = (TEST_ERROR, TRAIN_ERROR)
FIGURES = (
    Figure(
        name="paper",
        heading="The paper's table and these runs",
        how="Test errors: the paper's in percent; ours as mean ± half of the 95 % interval over seeds, and the "
        "difference from the reference, paired by seed. Data, width and training differ, so only the order can be "
        "compared.",
        chart="table",
        table="paper",
    ),
    Figure(
        name="ordering",
        heading="Does the order hold?",
        how="Spearman's rank correlation of each seed's errors with the paper's: mean and 95 % interval over seeds. "
        "Then the number of pairs in the paper's order and in the opposite order, counted where the interval of the "
        "difference excludes zero.",
        chart="table",
        table="ordering",
    ),
    numbers(
        "pairs",
        "Pair by pair",
        "pairs",
        "All pairs of variants with different errors in the paper: test error of the worse variant minus that of the "
        "better one, as measured here, paired by seed, with its 95 % interval.",
    ),
)


def figures(name: str, heading: str, variants: str) -> tuple[Figure, ...]:
    """The errors of the variants, and the comparison with the paper; `variants` is the title of the chart's axis."""
    return errors(name, heading, Axis("variant", variants, "steps"), y=OUTCOMES, panel="depth"), *FIGURES


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A paper's table of test errors.

    Attributes:
        source: the paper, with the table.
        network: the paper's network and data.
        reference: the variant with which the paper compares the others.
        errors: of each variant, in percent; `FAILED` where the paper gives none.
        failed: the error above which the paper reports a failure, in percent.
        columns: further columns, by heading: a text for each variant.
    """

    source: str
    network: str
    reference: str
    errors: Mapping[str, float]
    failed: float = 100.0
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def format_error(self, variant: str) -> str:
        """ "6.61", or "fail (> 20)"."""
        error = self.errors[variant]
        return f"fail (> {self.failed:g})" if error == FAILED else f"{error:.2f}"


def add_paper_tables(paper: PaperTable, tables: Tables) -> Tables:
    """The tables, with `paper` (one row per network), `pairs` (one row per pair) and `ordering` (one row per depth)."""
    runs = tables["runs"]
    ordered = pair_table(paper, runs)
    return {
        **tables,
        "paper": _paper_rows(paper, runs),
        "pairs": ordered,
        "ordering": _ordering_rows(paper, runs, ordered),
    }


def pair_table(paper: PaperTable, runs: pd.DataFrame) -> pd.DataFrame:
    """All pairs of variants with different errors in the paper, at each depth.

    `difference` with `low` and `high` is the test error of `worse` minus that of `better`, as a share, with its 95 %
    interval paired by seed; `order` compares its sign with the paper's order.
    """
    rows = []
    for depth, (one, other) in itertools.product(_depths(runs), itertools.combinations(_variants(paper, runs), 2)):
        if paper.errors[one] == paper.errors[other]:
            continue
        better, worse = sorted((one, other), key=paper.errors.__getitem__)
        found = _paired_difference(runs, worse, better, depth)
        keys = {"depth": depth, "better": better, "worse": worse}
        theirs = {"paper_better": paper.format_error(better), "paper_worse": paper.format_error(worse)}
        ours = {"difference": found.mean, "low": found.low, "high": found.high}
        rows.append({**keys, **theirs, **ours, "order": _order(found)})
    return pd.DataFrame(
        rows, columns=["depth", "better", "worse", "paper_better", "paper_worse", "difference", "low", "high", "order"]
    )


def rank_correlation(paper: PaperTable, runs: pd.DataFrame, depth: int) -> Interval:
    """Spearman's rank correlation of each seed's test errors with the paper's: mean and interval over seeds.

    A diverged run ranks last. Noise in a seed's errors lowers its correlation, so the mean is biased toward zero.
    """
    theirs = pd.Series({name: paper.errors[name] for name in _variants(paper, runs)}).rank()
    at = runs[runs["depth"] == depth]
    found = []
    for _, seed in at.groupby("seed"):
        ours = seed.set_index("variant")["test_error"].astype(float).fillna(math.inf).rank()
        known = ours.index.intersection(theirs.index)
        a, b = theirs[known].rank(), ours[known].rank()
        found.append(a.corr(b) if len(known) > 2 and min(a.nunique(), b.nunique()) > 1 else math.nan)
    return student(found)


def sentences(paper: PaperTable, tables: Tables) -> Iterator[str]:
    """Whether the paper's reference is best here, and whether the paper's order holds; deepest networks first."""
    runs = tables["runs"]
    yield from reference_sentences(paper, runs)
    for row in reversed(tables["ordering"].to_dict("records")):
        yield _order_sentence(row)
    for depth in reversed(_depths(runs)):
        yield from _opposite_pairs(tables["pairs"], depth)


def reference_sentences(
    paper: PaperTable, runs: pd.DataFrame, column: str = "test_error", what: str = "test error"
) -> Iterator[str]:
    """Which variants are worse or better than the paper's reference, at each depth."""
    names, reference = _variants(paper, runs), paper.reference
    if reference not in names or len(names) < 2:
        return
    for depth in reversed(_depths(runs)):
        own = format_percent(student(values_by_seed(runs, column, {"variant": reference, "depth": depth})))
        groups: dict[str, list[str]] = {}
        for name in names:
            if name != reference:
                group, change = _group_and_change(_paired_difference(runs, name, reference, depth, column))
                groups.setdefault(group, []).append(f"{name}{change}")
        parts = [f"{group}: {', '.join(groups[group])}" for group in _GROUPS if group in groups]
        worse, better, _, unknown = _GROUPS
        best = " No variant is better." if worse in groups and not {better, unknown} & set(groups) else ""
        yield f"{depth} layers, {what}: {own} for {reference}. Compared with it, {'; '.join(parts)}.{best}"


def reference_claims(paper: PaperTable, runs: pd.DataFrame) -> Iterator[Claim]:
    """Each variant compared with the paper's reference, in the deepest networks."""
    depth, names = max(_depths(runs)), _variants(paper, runs)
    reference = paper.reference
    if reference not in names:
        return
    for name in names:
        if name == reference:
            continue
        worse = paper.errors[name] > paper.errors[reference]
        errors = f"{paper.format_error(name)} % against {paper.format_error(reference)} %".replace(") %", " %)")
        found = _paired_difference(runs, name, reference, depth)
        yield Claim(
            claim=f"{paper.network}: {name} is {'worse' if worse else 'better'} than {reference}, {errors}.",
            source=paper.source,
            found=f"test error of {name} minus {reference} at {depth} layers: {format_difference(found)}",
            agrees=agreement(found, "above" if worse else "below"),
        )


def _variants(paper: PaperTable, runs: pd.DataFrame) -> list[str]:
    """The variants that were run, in the paper's order of rows."""
    there = set(runs["variant"])
    return [name for name in paper.errors if name in there]


def _depths(runs: pd.DataFrame) -> list[int]:
    return sorted(int(depth) for depth in runs["depth"].unique())


def _paired_difference(runs: pd.DataFrame, a: str, b: str, depth: int, column: str = "test_error") -> Interval:
    return difference(runs, column, {"variant": a, "depth": depth}, {"variant": b, "depth": depth})


def _order(difference: Interval) -> Order:
    """The order of a pair, by the interval of its difference, worse minus better."""
    if not difference.excludes(0):
        return "not shown"
    return "as in the paper" if difference.low > 0 else "opposite"


def _paper_rows(paper: PaperTable, runs: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for depth, name in itertools.product(_depths(runs), _variants(paper, runs)):
        own = runs[(runs["variant"] == name) & (runs["depth"] == depth)]
        row: dict[str, Any] = {"depth": depth, "variant": name}
        row |= {heading: texts.get(name, "") for heading, texts in paper.columns.items()}
        row[f"paper %, {paper.network}"] = paper.format_error(name)
        row["here"] = format_percent(student(own["test_error"]))
        row["diverged"] = f"{int((own['status'] == 'diverged').sum())} of {len(own)}"
        if name != paper.reference and paper.reference in set(runs["variant"]):
            row[f"less {paper.reference}"] = format_points(_paired_difference(runs, name, paper.reference, depth))
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def _ordering_rows(paper: PaperTable, runs: pd.DataFrame, ordered: pd.DataFrame) -> pd.DataFrame:
    """One row per depth: the rank correlation with its interval, and the number of pairs in each order."""
    rows = []
    for depth in _depths(runs):
        found = rank_correlation(paper, runs, depth)
        counts = ordered[ordered["depth"] == depth]["order"].value_counts()
        row: dict[str, Any] = {"depth": depth, "seeds": found.count, "rank_correlation": found.mean}
        row |= {"low": _clip_correlation(found.low), "high": _clip_correlation(found.high)}
        row |= {name: int(counts.get(name, 0)) for name in ("as in the paper", "opposite", "not shown")}
        rows.append(row)
    return pd.DataFrame(rows)


def _clip_correlation(end: float) -> float:
    """The end of a correlation's interval, which Student's t may put outside of −1 to 1."""
    return end if math.isnan(end) else max(-1.0, min(1.0, end))


_GROUPS = ("worse", "better", "no clear difference", "too few finished runs for an interval")


def _group_and_change(change: Interval) -> tuple[str, str]:
    """One of `_GROUPS`, and the change in points where its interval excludes zero."""
    worse, better, level, unknown = _GROUPS
    if not change.known:
        return unknown, ""
    if not change.excludes(0):
        return level, ""
    return worse if change.low > 0 else better, f" ({100 * change.mean:+.1f} points)"


def _opposite_pairs(ordered: pd.DataFrame, depth: int) -> Iterator[str]:
    """The pairs in the opposite order; the table of pairs has their numbers."""
    opposite = ordered[(ordered["depth"] == depth) & (ordered["order"] == "opposite")]
    if len(opposite):
        parts = [
            f"{name} is worse than {', '.join(rows['worse'])}" for name, rows in opposite.groupby("better", sort=False)
        ]
        yield f"Opposite to the paper's order at {depth} layers: {'; '.join(parts)}."


def _order_sentence(row: Mapping[Any, Any]) -> str:
    same, opposite, unclear = (int(row[name]) for name in ("as in the paper", "opposite", "not shown"))
    known = Interval(row["rank_correlation"], row["low"], row["high"], int(row["seeds"]))
    start = f"The paper's order at {row['depth']} layers"
    if not known.known:
        return f"{start}: unknown, since a rank correlation takes at least two seeds and three variants."
    if not known.excludes(0):
        verb = "is not clear overall"
    elif known.mean < 0:
        verb = "is reversed overall"
    else:
        verb = "holds overall" if known.mean >= STRONG else "holds in part"
    total = same + opposite + unclear
    return (
        f"{start} {verb}: of {total} pairs, {same} are in the paper's order, {opposite} in the opposite order, and "
        f"{unclear} show no clear difference ({0.05 * total:.1f} of {total} intervals would exclude zero by chance). "
        f"Rank correlation {known.mean:.2f} (95 % interval {known.low:.2f} to {known.high:.2f})."
    )
