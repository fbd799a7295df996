"""`overwritten-shortcut`: an activation in place overwrites the value that a shortcut should carry past it."""

from collections.abc import Iterator

from skiplab.analysis.merges import Merge, merges
from skiplab.analysis.reachability import Reach
from skiplab.graph.program import Op, Program
from skiplab.linter.finding import Finding
from skiplab.linter.name_resolution import Sources
from skiplab.linter.trace import written_at
from skiplab.linter.ways import others, walk

_WHY = "The shortcut carries what the activation left of the signal, so neither signal nor gradient passes unchanged."
_REFERENCE = "PyTorch documentation, Autograd mechanics, In-place operations with autograd"


def overwritten_shortcuts(program: Program, notes: list[str]) -> Iterator[Finding]:
    """Shortcuts that start at a value which an in-place activation has overwritten under its old name."""
    sources = Sources()
    for merge in merges(program):
        for position in range(len(merge.operands)):
            found = _overwritten(program, sources, merge, position)
            if found is not None:
                yield _finding(program, merge.op, *found)
    if sources.unreadable:
        files = ", ".join(sorted(sources.unreadable)[:3])
        notes.append(f"overwritten-shortcut: no source code to read names from in {files}.")


def _overwritten(program: Program, sources: Sources, merge: Merge, position: int) -> tuple[Op, str] | None:
    """The in-place activation whose result an operand carries by an old name, with that name."""
    steps = list(walk(program, merge.operands[position]))
    write = program.ops[steps[-1].value]
    if write.kind != "activation" or write.name not in program.overwritten or len(write.inputs) != 1:
        return None
    before = write.inputs[0]
    reach = Reach(program, others(merge, position), before)
    if max(reach.heaviest(write.index), reach.heaviest(before)) <= steps[-1].weights:
        return None  # nothing heavier stands beside it, so that it is no shortcut
    stale = {step.value for step in steps} & {program.by_name[n].index for n in _views(program, write)}
    if stale:
        return write, "a view taken before"
    reader = program.ops[steps[-2].value] if len(steps) > 1 else program.ops[merge.readers[position]]
    nodes = program.nodes
    name = sources.old_name(
        nodes[write.name], nodes[reader.name], nodes[program.ops[before].name], merges=len(steps) == 1
    )
    return (write, f"`{name}`") if name is not None else None


def _views(program: Program, write: Op) -> list[str]:
    return [name for name in program.overwritten[write.name] if name in program.by_name]


def _finding(program: Program, merge: Op, write: Op, name: str) -> Finding:
    line = written_at(program, write.name) or "a line unknown"
    return Finding(
        rule="overwritten-shortcut",
        path=merge.module,
        source=merge.source,
        what=f"{name} on the shortcut has been overwritten by {write.target} in place ({line}) before this merge",
        why=_WHY,
        mend=f"give that {write.target} inplace=False, or keep `x.clone()` for the shortcut; if it is meant, "
        "read the activation's result by its own name",
        reference=_REFERENCE,
    )
