"""Find likely mistakes around skip connections that raise no error: `lint(program)`.

Each rule is a file of its own, named as the rule; `registry` lists them.
"""

from skiplab.analysis.finder import find
from skiplab.analysis.skips import Skips
from skiplab.graph.program import Program
from skiplab.linter.finding import SCHEMA, Finding, Findings, findings_json
from skiplab.linter.registry import RULES
from skiplab.linter.rule import LintContext, Rule

__all__ = ["RULES", "SCHEMA", "Finding", "Findings", "Rule", "findings_json", "lint"]


def lint(program: Program, skips: Skips | None = None, *, identity_path: bool = False) -> Findings:
    """Likely mistakes around the skip connections of a program.

    Only a training graph contains drop-path, and only an inference graph normalizes by running statistics;
    `lint(inference) + lint(training)` has the findings of both, each once.

    Args:
        program: a captured network. If it has values, rules may run it on its example.
        skips: the result of `find` on this program; None calls `find`.
        identity_path: whether the network is meant to have a path of sums and linear maps only, from the first skip's
            fork to the last skip's merge. If so, report each op that breaks all such paths.

    Raises:
        StaleSkip: the skips are of another program.
    """
    skips = find(program) if skips is None else skips.check(program)
    context = LintContext(program=program, skips=skips, identity_path=identity_path)
    context.notes.extend(f"in-place writes that could not be followed: {name}." for name in program.unfollowed)
    findings: list[Finding] = []
    for rule in RULES:
        if rule.training_only and not program.training:
            context.notes.append(f"{rule.name}: only the training graph shows this; capture with train=True.")
        else:
            findings += rule.check(context)
    return Findings(findings, context.notes)
