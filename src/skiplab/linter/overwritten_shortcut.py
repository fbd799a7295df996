"""`overwritten-shortcut`: an in-place activation overwrites the value that a shortcut is meant to carry past it."""

from collections.abc import Iterator

from skiplab.analysis.backtrace import trace_chain
from skiplab.analysis.merges import Merge, merges
from skiplab.analysis.reachability import MergeReachability
from skiplab.graph.program import Op, Program
from skiplab.graph.source_map import written_at
from skiplab.linter.finding import Finding
from skiplab.linter.name_resolution import Sources
from skiplab.linter.rule import LintContext, Rule


def _check(context: LintContext) -> Iterator[Finding]:
    sources = Sources()
    for merge in merges(context.program):
        for position in range(len(merge.operands)):
            found = _overwritten(context.program, sources, merge, position)
            if found is not None:
                yield _finding(context.program, merge.op, *found)
    if sources.unreadable:
        files = ", ".join(sorted(sources.unreadable)[:3])
        context.notes.append(f"{RULE.name}: the source code of {files} is not available, so names cannot be read.")


def _overwritten(program: Program, sources: Sources, merge: Merge, position: int) -> tuple[Op, str] | None:
    """The in-place activation whose result an operand carries by the old name, and that name."""
    steps = list(trace_chain(program, merge.operands[position]))
    write = program.ops[steps[-1].value]
    if write.kind != "activation" or write.name not in program.overwritten or len(write.inputs) != 1:
        return None
    before = write.inputs[0]
    reachability = MergeReachability(program, merge.other_operands(position), before)
    if max(reachability.most_weights(write.index), reachability.most_weights(before)) <= steps[-1].weights:
        return None  # no heavier path enters the merge, so this is no shortcut
    views = {program.by_name[name].index for name in program.overwritten[write.name] if name in program.by_name}
    if views & {step.value for step in steps}:
        return write, "a view taken before"
    reader = program.ops[steps[-2].value] if len(steps) > 1 else program.ops[merge.readers[position]]
    nodes = program.nodes
    name = sources.old_name(
        nodes[write.name], nodes[reader.name], nodes[program.ops[before].name], merges=len(steps) == 1
    )
    return (write, f"`{name}`") if name is not None else None


def _finding(program: Program, merge: Op, write: Op, name: str) -> Finding:
    line = written_at(program.nodes.get(write.name)) or "unknown line"
    return Finding(
        rule=RULE.name,
        path=merge.module,
        source=merge.source,
        what=f"{name} on the shortcut is overwritten in place by {write.target} ({line}) before this merge",
        why="The shortcut carries the activated signal, so neither signal nor gradient passes unchanged.",
        fix=f"give that {write.target} inplace=False, or keep `x.clone()` for the shortcut; if it is intended, "
        "read the activation's result by its own name",
        reference="PyTorch documentation, Autograd mechanics, In-place operations with autograd",
    )


RULE = Rule(
    name="overwritten-shortcut",
    summary="an in-place activation that overwrites the shortcut's value",
    check=_check,
)
