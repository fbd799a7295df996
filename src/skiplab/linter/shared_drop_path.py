"""`shared-drop-path`: one drop-path module that one call of its parent uses for several branches."""

from collections import defaultdict
from collections.abc import Iterator

from skiplab.graph.program import Op
from skiplab.graph.source_map import called_at, module_calls
from skiplab.linter.drop_paths import REFERENCE, drop_paths
from skiplab.linter.finding import Finding
from skiplab.linter.rule import LintContext, Rule


def _check(context: LintContext) -> Iterator[Finding]:
    program = context.program
    uses: dict[tuple[str, str], dict[str, Op]] = defaultdict(dict)
    for name in drop_paths(program):
        calls = module_calls(program.nodes[name])
        if len(calls) > 1:
            uses[calls[-2][0], calls[-1][1]].setdefault(calls[-1][0], program.by_name[name])
    for ops in (list(use.values()) for use in uses.values()):
        if len(ops) > 1:
            yield Finding(
                rule=RULE.name,
                path=ops[0].module,
                source=called_at(program.nodes[ops[-1].name]),
                what=f"one drop-path object serves {len(ops)} branches of one block",
                why="Each call draws a new mask, so training is as intended; but the branches share one rate, and a "
                "hook, a schedule or a pruning tool that addresses this object affects all of them.",
                fix="give each branch a drop-path of its own",
                reference=REFERENCE,
            )


RULE = Rule(
    name="shared-drop-path",
    summary="one drop-path object for several branches",
    check=_check,
    training_only=True,
)
