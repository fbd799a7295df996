"""`nonlinear-shortcut`: an activation, a max-pool or a norm on what is a shortcut without it."""

from collections.abc import Iterator

from skiplab.analysis.backtrace import ChainStep, trace_chain
from skiplab.analysis.merges import Merge, merges
from skiplab.analysis.reachability import MergeReachability, between
from skiplab.graph.ops import LINEAR, Kind, is_concat
from skiplab.graph.program import Program
from skiplab.graph.source_map import written_at
from skiplab.linter.finding import Finding, op_label
from skiplab.linter.rule import LintContext, Rule

_SPOILING: tuple[Kind, ...] = ("activation", "max_pool", "norm")


def _check(context: LintContext) -> Iterator[Finding]:
    with_skip = {skip.merge for skip in context.skips}
    for merge in merges(context.program):
        if is_concat(merge.op.target) or merge.op.name in with_skip:
            continue
        steps = (_spoiled(context.program, merge, position) for position in range(len(merge.operands)))
        step = next((step for step in steps if step is not None), None)
        if step is not None:
            yield _finding(context.program, merge, step)


def _spoiled(program: Program, merge: Merge, position: int) -> ChainStep | None:
    """The step at the fork of the skip that there would be if the crossed ops were absent."""
    operand = merge.operands[position]
    if program.ops[operand].shape != merge.op.shape:
        return None
    steps = [s for s in trace_chain(program, operand, _SPOILING) if s.crossed and len(program.users[s.value]) > 1]
    ends = merge.other_operands(position)
    reachability = MergeReachability(program, ends, min((step.value for step in steps), default=0))
    for step in steps:
        # A layer with an activation next to two layers is one of several paths, no shortcut (Inception, HRNet).
        if reachability.most_weights(step.value) > step.weights + (step.weights > 0):
            region = between(program, step.value, ends)
            is_linear = all(program.ops[i].kind in LINEAR for i in region)  # then the sum is foldable, no skip
            return None if is_linear or _is_fusion(program, merge, step, region) else step
    return None


def _is_fusion(program: Program, merge: Merge, step: ChainStep, region: set[int]) -> bool:
    """Whether a merge joins paths of different resolutions, or a layer with a distant part of the network.

    A pyramid's lateral layer with an activation (UPerNet) is a layer like others, although its path is lighter.
    """
    if not program.growing.isdisjoint(region):
        return True
    here = merge.op.module + "." if merge.op.module else ""
    return bool(step.weights) and not all((program.ops[i].module + ".").startswith(here) for i in region)


def _finding(program: Program, merge: Merge, step: ChainStep) -> Finding:
    spoiling = [program.ops[index] for index in step.crossed]
    names = ", ".join(op_label(op) for op in reversed(spoiling))
    line = written_at(program.nodes.get(spoiling[0].name))
    place = f" ({line})" if line is not None and line != merge.op.source else ""
    pool = any(op.kind == "max_pool" for op in spoiling)
    return Finding(
        rule=RULE.name,
        path=merge.op.module,
        source=merge.op.source,
        what=f"{names}{place} is on the lighter path into this sum, which is a shortcut without it",
        why="The path past the branch is nonlinear: signal and gradient pass only in part, and each such block takes "
        "another part.",
        fix="move it into the branch or after the sum"
        + ("; to lower the resolution, use average pooling" if pool else ""),
        reference="He et al. 2016, Identity Mappings in Deep Residual Networks, §3",
    )


RULE = Rule(
    name="nonlinear-shortcut",
    summary="an activation, max-pool or norm on the shortcut",
    check=_check,
)
