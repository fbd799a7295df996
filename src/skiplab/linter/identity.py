"""`no-identity-path`: what stands on every path past the skips, where the user asks for a path without any."""

from collections.abc import Iterator

from skiplab.analysis.reachability import between
from skiplab.analysis.skips import Skips
from skiplab.graph.ops import Kind
from skiplab.graph.program import Op, Program
from skiplab.linter.finding import Finding
from skiplab.linter.trace import written_at
from skiplab.linter.ways import name_of

_HE = "He et al. 2016, Identity Mappings in Deep Residual Networks, §2"
_XIONG = "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, §3"
_WHAT: dict[Kind, str] = {
    "activation": "an activation",
    "max_pool": "a choice of a maximum",
    "norm": "a norm over the sample, which is not linear",
    "batch_norm": "a batch norm, linear only once its statistics are fixed",
    "product": "a product of data (a gate, attention, or a norm written out)",
    "recurrent": "a recurrent layer",
    "other": "an operator that Skiplab does not know",
}


def on_every_path(program: Program, skips: Skips, notes: list[str]) -> Iterator[Finding]:
    """Each nonlinear op or norm that no path from the first skip's fork to the last skip's merge avoids."""
    ends = [(program.by_name[s.fork].index, program.by_name[s.merge].index) for s in skips if s.steps is None]
    if not ends:
        notes.append("no-identity-path: there is no skip connection, and so no path to look at.")
    while ends:
        first = min(fork for fork, _ in ends)
        region = between(program, first, (merge for _, merge in ends)) | {first}
        last = max(region)
        for index in _unavoidable(program, first, last):
            if program.ops[index].kind in _WHAT:
                yield _finding(program, program.ops[index])
        # What the first skip's signal does not reach is another stream, such as a decoder's.
        ends = [(fork, merge) for fork, merge in ends if fork not in region]


def _unavoidable(program: Program, first: int, last: int) -> Iterator[int]:
    """Ops strictly between two others that lie on all paths from the one to the other.

    Ops are in order of execution, so a path avoids an op exactly if some edge on the ways between the two leads
    from before it to after it.
    """
    region = between(program, first, [last]) | {first}
    farthest = first  # where the longest edge so far leads
    readers: dict[int, int] = {}
    for index in region:
        for operand in program.ops[index].inputs:
            if operand in region:
                readers[operand] = max(index, readers.get(operand, -1))
    for index in sorted(region):
        if first < index < last and farthest <= index:
            yield index
        farthest = max(farthest, readers.get(index, -1))


def _finding(program: Program, op: Op) -> Finding:
    return Finding(
        rule="no-identity-path",
        path=op.module,
        source=written_at(program, op.name) or op.source,
        what=f"{name_of(op)}, {_WHAT[op.kind]}, lies on every path from the first skip's fork to the last skip's merge",
        why="No path carries the signal and its gradient unchanged past it, however many skips there are.",
        mend="move it into the branch, before the first weight layer (pre-activation, pre-norm), with one norm "
        "after the last merge",
        reference=_XIONG if op.kind in ("norm", "product") else _HE,
    )
