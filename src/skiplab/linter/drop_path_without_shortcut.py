"""`drop-path-without-shortcut`: stochastic depth at a place where no shortcut carries the signal past it."""

from collections.abc import Iterator

from skiplab.analysis.backtrace import trace_chain
from skiplab.analysis.merges import merges
from skiplab.analysis.skips import Skips
from skiplab.graph.ops import is_concat
from skiplab.graph.program import Op, Program
from skiplab.graph.source_map import called_at, frames, module_calls
from skiplab.linter.drop_paths import REFERENCE, drop_paths
from skiplab.linter.finding import Finding
from skiplab.linter.rule import LintContext, Rule


def _check(context: LintContext) -> Iterator[Finding]:
    program, skips = context.program, context.skips.in_graph()
    dropped = drop_paths(program)
    if not dropped:
        return
    safe, on_shortcut = _safe_ops(program, skips), _shortcut_ops(program, skips)
    for op in (program.by_name[name] for name in dropped):
        if op.index in on_shortcut:
            yield _finding(program, op, "is on a shortcut instead of the branch")
        elif op.index not in safe:
            yield _finding(program, op, "is at a place without a shortcut")


def _safe_ops(program: Program, skips: Skips) -> set[int]:
    """Ops from which only transparent ones lead to a merge that another path enters too."""
    ends = {program.by_name[name].index for skip in skips for name in skip.branch}
    safe = {step.value for end in ends for step in trace_chain(program, end) if not step.weights}
    with_skip = {skip.merge for skip in skips}
    for merge in merges(program):
        # At other sums, such as those of a FractalNet's columns, one path remains when the other is dropped.
        if is_concat(merge.op.target) or merge.op.name in with_skip:
            continue
        for operand in merge.operands:
            for step in trace_chain(program, operand):
                if step.weights or len(program.users[step.value]) > 1:
                    break
                safe.add(step.value)
    return safe


def _shortcut_ops(program: Program, skips: Skips) -> set[int]:
    """Ops on shortcuts, without their forks."""
    found: set[int] = set()
    for skip in skips:
        fork = program.by_name[skip.fork].index
        values = [step.value for step in trace_chain(program, program.by_name[skip.operand].index)]
        if fork in values:
            found.update(values[: values.index(fork)])
    return found


def _finding(program: Program, op: Op, where: str) -> Finding:
    return Finding(
        rule=RULE.name,
        path=op.module,
        source=_source(program, op),
        what=f"drop-path {where}",
        why="A dropped sample loses its whole signal there: all later layers get zeros and learn from them.",
        fix="apply drop-path only to the branch, right before the sum (`x + drop_path(f(x))`), and not in blocks "
        "without a shortcut",
        reference=REFERENCE,
    )


def _source(program: Program, op: Op) -> str | None:
    """The line that calls drop-path: a module, or else a function, with such a name."""
    node = program.nodes.get(op.name)
    calls = module_calls(node)
    if calls and _is_drop_path(calls[-1][2].rpartition(".")[2]):
        return called_at(node)
    lines = list(frames(node))
    while len(lines) > 1 and _is_drop_path(lines[-1].function):
        lines.pop()
    return lines[-1].source if lines else op.source


def _is_drop_path(name: str) -> bool:
    return any(word in name.lower() for word in ("drop", "stochastic"))


RULE = Rule(
    name="drop-path-without-shortcut",
    summary="stochastic depth where no shortcut carries the signal",
    check=_check,
    training_only=True,
)
