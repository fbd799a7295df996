"""`no-identity-path`: nonlinear ops and norms on every path past the skips, where the user wants a path without any."""

from collections.abc import Iterator

from skiplab.analysis.reachability import between, ops_on_every_path
from skiplab.graph.ops import Kind
from skiplab.graph.program import Op, Program
from skiplab.graph.source_map import written_at
from skiplab.linter.finding import Finding, op_label
from skiplab.linter.rule import LintContext, Rule

_HE = "He et al. 2016, Identity Mappings in Deep Residual Networks, §2"
_XIONG = "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, §3"
_DESCRIPTIONS: dict[Kind, str] = {
    "activation": "an activation",
    "max_pool": "a maximum",
    "norm": "a norm over the sample, which is not linear",
    "batch_norm": "a batch norm, which is linear only with fixed statistics",
    "product": "a product of data (a gate, attention, or a norm in plain operators)",
    "recurrent": "a recurrent layer",
    "other": "an operator that Skiplab does not know",
}


def _check(context: LintContext) -> Iterator[Finding]:
    program = context.program
    if not context.identity_path:
        return
    skips = context.skips.in_graph()
    ends = [(program.by_name[skip.fork].index, program.by_name[skip.merge].index) for skip in skips]
    if not ends:
        context.notes.append(f"{RULE.name}: there is no skip connection, so there is no path to check.")
    while ends:
        first = min(fork for fork, _ in ends)
        region = between(program, first, (merge for _, merge in ends)) | {first}
        last = max(region)
        for index in ops_on_every_path(program, between(program, first, [last]) | {first}):
            if first < index < last and program.ops[index].kind in _DESCRIPTIONS:
                yield _finding(program, program.ops[index])
        # The signal of the first skip does not reach the rest, which is another stream, such as a decoder.
        ends = [(fork, merge) for fork, merge in ends if fork not in region]


def _finding(program: Program, op: Op) -> Finding:
    return Finding(
        rule=RULE.name,
        path=op.module,
        source=written_at(program.nodes.get(op.name)) or op.source,
        what=f"{op_label(op)}, {_DESCRIPTIONS[op.kind]}, is on every path from the first skip's fork to the "
        "last skip's merge",
        why="No path carries the signal and its gradient past it unchanged, however many skips there are.",
        fix="move it into the branch, before the first weight layer (pre-activation, pre-norm), with one norm "
        "after the last merge",
        reference=_XIONG if op.kind in ("norm", "product") else _HE,
    )


RULE = Rule(
    name="no-identity-path",
    summary="ops on every path, with --identity-path: for networks that are meant to have a linear path",
    check=_check,
)
