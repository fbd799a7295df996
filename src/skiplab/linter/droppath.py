"""`drop-path-without-shortcut` and `shared-drop-path`: stochastic depth in the training graph.

Drop-path is a product of data with a random mask of one number a sample (or one for the whole batch).
"""

from collections import defaultdict
from collections.abc import Iterator

from torch import Tensor
from torch.fx import Node

from skiplab.analysis.merges import merges
from skiplab.analysis.skips import Skips
from skiplab.graph.ops import draws_random_numbers, is_concat, is_scale
from skiplab.graph.program import Op, Program
from skiplab.linter.finding import Finding
from skiplab.linter.trace import called_at, calls, frames
from skiplab.linter.ways import walk

_HUANG = "Huang et al. 2016, Deep Networks with Stochastic Depth, §3"


def drop_paths(program: Program) -> dict[str, str]:
    """The products with a random mask a sample: name of the op -> name of the mask's node."""
    random: set[Node] = set()
    found: dict[str, str] = {}
    for node in program.graph.graph.nodes:
        if node.op != "call_function":
            continue
        op = program.by_name.get(node.name)
        masks = [each for each in node.all_input_nodes if each in random]
        if op is None and (masks or draws_random_numbers(node)):
            random.add(node)
        elif op is not None and is_scale(op.target) and len(op.inputs) == 1:
            found.update((op.name, mask.name) for mask in masks if _is_per_sample(mask))
    return found


def _is_per_sample(mask: Node) -> bool:
    value = mask.meta.get("val")
    return isinstance(value, Tensor) and all(isinstance(size, int) and size == 1 for size in value.shape[1:])


def without_shortcut(program: Program, skips: Skips) -> Iterator[Finding]:
    """Drop-paths whose result is not the end of a branch beside which something else carries the signal on."""
    dropped = drop_paths(program)
    beside, on_shortcut = (_branch_ends(program, skips), _shortcuts(program, skips)) if dropped else (set(), set())
    for name in dropped:
        op = program.by_name[name]
        if op.index in on_shortcut:
            yield _lonely(program, op, "is on a shortcut, not on the branch beside it")
        elif op.index not in beside:
            yield _lonely(program, op, "stands where there is no shortcut")


def _branch_ends(program: Program, skips: Skips) -> set[int]:
    """Ops from which only transparent ones lead to a merge, beside some other way into it."""
    ends = {program.by_name[name].index for skip in skips if skip.steps is None for name in skip.branch}
    safe = {step.value for end in ends for step in walk(program, end) if not step.weights}
    with_skip = {skip.merge for skip in skips}
    for merge in merges(program):
        # At other sums, such as those of a FractalNet's columns, one way remains when the other is dropped.
        if is_concat(merge.op.target) or merge.op.name in with_skip:
            continue
        for operand in merge.operands:
            for step in walk(program, operand):
                if step.weights or len(program.users[step.value]) > 1:
                    break
                safe.add(step.value)
    return safe


def _shortcuts(program: Program, skips: Skips) -> set[int]:
    """Ops after a fork that lie on the light way to a merge."""
    found: set[int] = set()
    for skip in skips:
        fork = program.by_name[skip.fork].index
        steps = (
            [step.value for step in walk(program, program.by_name[skip.operand].index)] if skip.steps is None else []
        )
        if fork in steps:
            found.update(steps[: steps.index(fork)])
    return found


def _lonely(program: Program, op: Op, where: str) -> Finding:
    return Finding(
        rule="drop-path-without-shortcut",
        path=op.module,
        source=_place(program, op),
        what=f"drop-path {where}",
        why="A sample that is dropped there loses its whole signal: what follows gets zeros and learns from them.",
        mend="apply drop-path to the branch alone, right before it is added (`x + drop_path(f(x))`), and to no block "
        "that has no shortcut",
        reference=_HUANG,
    )


def _place(program: Program, op: Op) -> str | None:
    """The line that asks for drop-path: that calls a module, or else a function, of such a name."""
    node = program.nodes.get(op.name)
    kind = calls(node)[-1][2].rpartition(".")[2] if calls(node) else ""
    if _is_named(kind):
        return called_at(program, op.name)
    lines = list(frames(node))
    while len(lines) > 1 and _is_named(lines[-1].function):
        lines.pop()
    return lines[-1].source if lines else op.source


def _is_named(name: str) -> bool:
    return any(word in name.lower() for word in ("drop", "stochastic"))


def shared(program: Program) -> Iterator[Finding]:
    """Drop-path modules that one call of their parent uses for several branches."""
    uses: dict[tuple[str, str], dict[str, Op]] = defaultdict(dict)
    for name in drop_paths(program):
        stack = calls(program.nodes[name])
        if len(stack) > 1:
            uses[stack[-2][0], stack[-1][1]].setdefault(stack[-1][0], program.by_name[name])
    for each in uses.values():
        ops = list(each.values())
        if len(ops) > 1:
            yield Finding(
                rule="shared-drop-path",
                path=ops[0].module,
                source=called_at(program, ops[-1].name),
                what=f"one drop-path object is used for {len(ops)} branches of one block",
                why="Each call draws anew, so training is as meant; but the branches share one rate, and a hook, "
                "a schedule or pruning that looks for this object hits them all.",
                mend="give each branch a drop-path of its own",
                reference=_HUANG,
            )
