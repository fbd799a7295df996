"""Results as lines of text: counts, differences, proofs, findings, the census."""

import math
from collections import Counter
from pathlib import Path

from skiplab.analysis.differ import Difference, trait
from skiplab.analysis.path_census import Census
from skiplab.analysis.skips import Skip, Skips
from skiplab.linter import Findings
from skiplab.stats.wording import plural
from skiplab.verification import Proof


def source_line(source: str | None) -> str:
    """FILE:LINE with the path relative to the working folder, or the file name alone if it is elsewhere."""
    if source is None:
        return "unknown"
    file, _, line = source.rpartition(":")
    path = Path(file)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(path.name)
    return f"{shown}:{line}"


def skips_line(skips: Skips) -> str:
    """Counts of skips and non-skips: "16 skips: 12 add/identity, 4 add/projection"."""
    kinds = Counter(f"{skip.combine}/{skip.shortcut}" for skip in skips)
    reasons = Counter(each.reason for each in skips.non_skips)
    text = plural(len(skips), "skip") + (f": {_counts(kinds)}" if kinds else "")
    return text + (f"; non-skips: {_counts(reasons)}" if reasons else "")


def _counts(names: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in names.most_common())


def proof_lines(proof: Proof) -> list[str]:
    """The number of proved skips, and the reason for each skip that is not proved."""
    proved = len(proof.rows) - len(proof.failures)
    lines = [
        f"proved: {proved} of {len(proof.rows)} at {proof.points} random points in float64, largest relative "
        f"deviation {proof.deviation:.1g}"
    ]
    return lines + [f"not proved: {row.id}, recorded as {row.claimed}: {row.reason}" for row in proof.failures]


def difference_lines(difference: Difference) -> list[str]:
    """One line per removed, added and changed skip, and a line of counts."""
    lines = [f"- {_skip_text(skip)}" for skip in difference.removed] + [
        f"+ {_skip_text(skip)}" for skip in difference.added
    ]
    for change in difference.changed:
        fields = [
            f"{n} {_format_value(trait(change.before, n))} → {_format_value(trait(change.after, n))}"
            for n in change.fields
        ]
        lines.append(f"~ {change.after.id}: {', '.join(fields).replace('_', ' ')}")
    for (path, reason), count in difference.non_skips.items():
        lines.append(f"{'+' if count > 0 else '-'} non-skips: {abs(count)} {reason} in {path or 'the root'}")
    if not lines:
        return ["no difference"]
    counts = len(difference.removed), len(difference.added), len(difference.changed)
    return [*lines, "skips: {} removed, {} added, {} changed".format(*counts)]


def _skip_text(skip: Skip) -> str:
    kind = f"{skip.combine}/{skip.shortcut} around {skip.weight_layers} weight layers"
    return f"{skip.id}: {kind} ({source_line(skip.source)})"


def _format_value(value: object) -> str:
    if isinstance(value, tuple):
        return "·".join(map(str, value)) or "none"
    return {"True": "yes", "False": "no", "None": "none"}.get(str(value), str(value))


def findings_lines(findings: Findings) -> list[str]:
    """The lines of each finding, then the notes on checks that were not possible."""
    lines = []
    for finding in findings:
        lines += [
            f"{finding.rule} in {finding.path or 'the root'} ({source_line(finding.source)})",
            f"  {finding.what}",
            f"  why: {finding.why}",
            f"  fix: {finding.fix}",
            f"  see: {finding.reference}",
            "",
        ]
    lines += [f"not checked: {note}" for note in findings.notes]
    return [*lines, f"{len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}"]


def census_lines(census: Census) -> list[str]:
    """The census in three lines: paths, nonlinearities, most linear path."""
    by_kind = census.nonlinearities.by_kind
    kinds = ", ".join(f"{kind.replace('_', '-')} {_span(r.min, r.max)}" for kind, r in by_kind.items() if r.max)
    counted = "" if "norm" in census.counted or not by_kind["norm"].max else ", norms not counted"
    total = _span(census.nonlinearities.min, census.nonlinearities.max)
    path = census.most_linear
    ops = [step.module or step.name for step in path.steps if step.kind in ("weight", *census.counted)]
    return [
        f"paths: {format_count(census.paths)}, each through "
        f"{_span(census.weight_layers.min, census.weight_layers.max)} weight layers",
        f"nonlinearities on a path: {total}{counted}" + (f" ({kinds})" if kinds else ""),
        f"most linear path: {path.nonlinearities} nonlinearities, {path.weight_layers} weight layers: "
        + _abridged(ops),
    ]


def _abridged(names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    if len(names) > 6:
        names = [*names[:3], "…", *names[-2:]]
    return " → ".join(names) or "no ops"


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def format_count(number: int) -> str:
    """An exact integer, from 10⁵ on with its power of two, from 10²¹ on as power of two alone."""
    power = f"2^{number.bit_length() - 1}" if number and number & (number - 1) == 0 else f"about 2^{_log2(number):.1f}"
    if number < 10**5:
        return f"{number:,}"
    return f"{number:,} ({power})" if number < 10**21 else power


def _log2(number: int) -> float:
    shift = max(0, number.bit_length() - 60)
    return shift + math.log2(number >> shift) if number else 0.0
