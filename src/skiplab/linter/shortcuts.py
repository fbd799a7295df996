"""`nonlinear-shortcut`: an activation, a max-pool or a norm on what would be a shortcut without it."""

from collections.abc import Iterator

from skiplab.analysis.merges import Merge, merges
from skiplab.analysis.reachability import Reach, between
from skiplab.analysis.skips import Skips
from skiplab.graph.ops import LINEAR, Kind, is_concat
from skiplab.graph.program import Program
from skiplab.linter.finding import Finding
from skiplab.linter.trace import written_at
from skiplab.linter.ways import Step, name_of, others, walk

_SPOILING: tuple[Kind, ...] = ("activation", "max_pool", "norm")


def nonlinear_shortcuts(program: Program, skips: Skips) -> Iterator[Finding]:
    """Sums without a skip whose one operand is light but for what is no function of a shortcut."""
    with_skip = {skip.merge for skip in skips}
    for merge in merges(program):
        if is_concat(merge.op.target) or merge.op.name in with_skip:
            continue
        for position in range(len(merge.operands)):
            step = _spoiled(program, merge, position)
            if step is not None:
                yield _finding(program, merge, step)
                break


def _spoiled(program: Program, merge: Merge, position: int) -> Step | None:
    """The walk from an operand to what would be the fork, if nothing stood on it that is not transparent."""
    operand = merge.operands[position]
    if program.ops[operand].shape != merge.op.shape:
        return None
    steps = [s for s in walk(program, operand, _SPOILING) if s.crossed and len(program.users[s.value]) > 1]
    ends = others(merge, position)
    reach = Reach(program, ends, min((step.value for step in steps), default=0))
    for step in steps:
        # A layer with an activation beside two layers is one of several ways, not a shortcut (Inception, HRNet).
        if reach.heaviest(step.value) > step.weights + (step.weights > 0):
            region = between(program, step.value, ends)
            linear = all(program.ops[i].kind in LINEAR for i in region)  # such a sum would be foldable, no skip
            return None if linear or _is_fusion(program, merge, step, region) else step
    return None


def _is_fusion(program: Program, merge: Merge, step: Step, region: set[int]) -> bool:
    """Whether ways of different resolution meet, or a layer's output meets that of a part of the network elsewhere.

    A pyramid's lateral layer with an activation in it (UPerNet) is a layer like others, though it is the
    lighter way.
    """
    if not program.growing.isdisjoint(region):
        return True
    here = merge.op.module + "." if merge.op.module else ""
    return bool(step.weights) and not all((program.ops[i].module + ".").startswith(here) for i in region)


def _finding(program: Program, merge: Merge, step: Step) -> Finding:
    spoiling = [program.ops[index] for index in step.crossed]
    names = ", ".join(name_of(op) for op in reversed(spoiling))
    line = written_at(program, spoiling[0].name)
    place = f" ({line})" if line is not None and line != merge.op.source else ""
    pool = any(op.kind == "max_pool" for op in spoiling)
    return Finding(
        rule="nonlinear-shortcut",
        path=merge.op.module,
        source=merge.op.source,
        what=f"{names}{place} is on the lighter way into this sum, which would be a shortcut without it",
        why="The way past the branch is no longer linear: the signal and the gradient pass through it in part only, "
        "once more in each such block.",
        mend="move it into the branch or after the sum" + ("; to go down, take the average instead" if pool else ""),
        reference="He et al. 2016, Identity Mappings in Deep Residual Networks, §3",
    )
