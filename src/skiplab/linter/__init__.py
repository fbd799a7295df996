"""Find mistakes around skip connections that train without a word: `lint(program)`."""

from collections.abc import Iterable

from skiplab.analysis.finder import find
from skiplab.analysis.skips import Skips
from skiplab.graph.program import Program
from skiplab.linter.broadcast import broadcast_merges
from skiplab.linter.dead import dead_branches
from skiplab.linter.droppath import shared, without_shortcut
from skiplab.linter.finding import SCHEMA, Finding, Findings, findings_json
from skiplab.linter.identity import on_every_path
from skiplab.linter.overwrites import overwritten_shortcuts
from skiplab.linter.shortcuts import nonlinear_shortcuts

__all__ = ["SCHEMA", "Finding", "Findings", "findings_json", "lint"]

_TRAINING = "drop-path rules: drop-path is in the training graph alone; capture with train=True to check it."


def lint(program: Program, skips: Skips | None = None, *, identity_path: bool = False) -> Findings:
    """What around the skip connections of a program is likely to be a mistake.

    Drop-path is to be seen in the training graph alone, and batch norm's own statistics in the inference
    graph; `lint(inference) + lint(training)` holds the findings of both, each once.

    Args:
        program: a captured network. Where it holds values, it is run on its example.
        skips: what `find` found in it; looked for when None.
        identity_path: the network is meant to have a path with nothing on it but sums and linear maps from the
            first skip's fork to the last skip's merge; tell what stands on every path.
    """
    skips = find(program) if skips is None else skips.check(program)
    notes = [f"in-place writes that could not be followed: {name}." for name in program.unfollowed]
    findings = _in_order(overwritten_shortcuts(program, notes))
    if identity_path:
        findings += on_every_path(program, skips, notes)
    if program.training:
        findings += [*without_shortcut(program, skips), *shared(program)]
    else:
        notes.append(_TRAINING)
    findings += _in_order(nonlinear_shortcuts(program, skips))
    findings += dead_branches(program, skips, notes)
    findings += _in_order(broadcast_merges(program, skips))
    return Findings(findings, notes)


def _in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Merges are visited from the last to the first."""
    return list(findings)[::-1]
