"""`dead-branch`: a branch that adds nothing and cannot learn to."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skiplab.analysis.backtrace import trace_chain
from skiplab.analysis.merges import merge_at
from skiplab.analysis.reachability import between
from skiplab.analysis.skips import Skip
from skiplab.graph.interpreter import Edge, Execution, Patch
from skiplab.graph.ops import WEIGHT_LAYERS
from skiplab.graph.program import Op, Program
from skiplab.graph.rng import isolated_rng, reseed
from skiplab.graph.torch_compat import pytree
from skiplab.linter.drop_paths import drop_paths
from skiplab.linter.finding import Finding
from skiplab.linter.rule import LintContext, Rule

# Of inputs and of dropout. With one draw, a narrow branch that ends in a ReLU may be zero by chance.
_DRAWS = 4
_REZERO = "Bachlechner et al. 2021, ReZero is All You Need, §3"


@dataclass(frozen=True, kw_only=True)
class _Cause:
    """Why a branch is dead, in the fields of a `Finding`."""

    what: str
    why: str
    fix: str
    reference: str = _REZERO


_UNREAD = _Cause(
    what="no output of the network depends on this merge",
    why="The block costs time and memory and has no effect.",
    fix="return a value that depends on it, or delete the block",
)
_CUT = _Cause(
    what="`detach` cuts the branch off from the gradient, so nothing on it learns",
    why="The branch keeps its initial weights throughout training.",
    fix="remove `detach`, or apply it to the input of the branch, or train the branch with a loss of its own",
    reference="PyTorch documentation, torch.Tensor.detach",
)
_ZERO = _Cause(
    what="the branch is zero everywhere, on the example and near it, and no parameter on it gets a gradient",
    why="Its gradient is multiplied by zero, so the branch stays zero however long it is trained.",
    fix="remove the constant zero, make the zero factor a parameter, or start only one of two factors at zero",
)


def _check(context: LintContext) -> Iterator[Finding]:
    """Skips whose branch reaches no output, gets no gradient, or is always zero."""
    program = context.program
    branches: dict[Edge, Skip] = {}
    for skip in context.skips.in_graph():
        if program.by_name[skip.merge].index in program.useful:
            branches.update(((skip.merge, name), skip) for name in skip.branch)
        else:
            yield _finding(skip, _UNREAD)
    detaches = any(op.target == "detach" for op in program.ops)
    cut = [edge for edge, skip in branches.items() if detaches and _is_cut(program, skip, edge[1])]
    for edge in cut:
        yield _finding(branches.pop(edge), _CUT)
    for edge in _zeros(program, branches, context.notes):
        yield _finding(branches[edge], _ZERO)


def _finding(skip: Skip, cause: _Cause) -> Finding:
    return Finding(
        rule=RULE.name,
        path=skip.path,
        source=skip.source,
        what=cause.what,
        why=cause.why,
        fix=cause.fix,
        reference=cause.reference,
    )


def _is_cut(program: Program, skip: Skip, end: str) -> bool:
    """Whether `detach` cuts every parameter on a branch off from the merge."""
    fork, last = program.by_name[skip.fork].index, program.by_name[end].index
    region = between(program, fork, [last])
    detached: list[Op] = []
    pending, seen = [last], {fork}
    while pending:
        op = program.ops[pending.pop()]
        if op.index in seen or op.index not in region:
            continue
        seen.add(op.index)
        if op.target == "detach":
            detached.append(op)
        elif op.weights or op.kind in WEIGHT_LAYERS:
            return False
        else:
            pending += op.inputs
    return bool(detached) and not all(_is_straight_through(program, op, fork) for op in detached)


def _is_straight_through(program: Program, detach: Op, fork: int) -> bool:
    """Whether this is `x + (q(x) − x).detach()`, q's value with x's gradient, as in a vector quantizer."""
    op = program.ops[detach.inputs[0]]
    operands = merge_at(program, op.name).operands if op.kind == "merge" else ()
    return any(fork in (s.value for s in trace_chain(program, i)) for i in operands)


def _zeros(program: Program, branches: dict[Edge, Skip], notes: list[str]) -> list[Edge]:
    """The branches (merge, operand) that are zero on the example and get no gradient."""
    if not program.has_values:
        notes.append(f"{RULE.name}: the network was captured without values, so no branch's value could be checked.")
        return []
    if not branches:
        return []
    try:
        with isolated_rng():
            zero = _zero_values(program, branches)
            return _without_gradient(program, {edge: branches[edge] for edge in zero}) if zero else []
    except Exception as error:  # the user's operators run here
        line = (str(error).splitlines() or [""])[0]
        notes.append(f"{RULE.name}: the graph could not be run on its example ({type(error).__name__}: {line[:120]}).")
        return []


def _zero_values(program: Program, branches: dict[Edge, Skip]) -> list[Edge]:
    """The branches that are zero in every entry and draw, although their fork is not."""
    edges = {edge: _reader_edge(program, edge) for edge in branches}
    forks = {skip.fork: (program.ops[_first_reader(program, skip.fork)].name, skip.fork) for skip in branches.values()}
    alive: set[Edge] = set()
    for draw in range(_DRAWS):
        reseed(draw)
        with torch.no_grad():
            _run(program, {edge: _watch(edge, alive) for edge in {*edges.values(), *forks.values()}}, noise=draw > 0)
        if all(edge in alive for edge in edges.values()):
            return []
    return [e for e, skip in branches.items() if edges[e] not in alive and forks[skip.fork] in alive]


def _watch(edge: Edge, alive: set[Edge]) -> Patch:
    def record(value: Any) -> Any:  # the parts of a split are a list
        if edge not in alive and any(bool(t.count_nonzero()) for t in pytree.tree_leaves(value)):
            alive.add(edge)
        return value

    return record


def _run(
    program: Program, patches: dict[Edge, Patch], tensors: dict[str, Tensor] | None = None, *, noise: bool = False
) -> None:
    """Runs the program on its example, with normal noise added to its real inputs on request.

    No drop-path drops a sample: in a small batch it may drop all of them by chance.
    """
    undropped: dict[Edge, Patch] = dict.fromkeys(drop_paths(program).items(), torch.ones_like)
    args, kwargs = pytree.tree_map_only(Tensor, _with_noise, program.example) if noise else program.example
    Execution(program, args, kwargs, patches={**undropped, **patches}, tensors=tensors).finish()


def _with_noise(value: Tensor) -> Tensor:
    return value + torch.randn_like(value) if value.is_floating_point() else value


def _reader_edge(program: Program, edge: Edge) -> Edge:
    """The op of a merge's chain that reads an operand, and the operand."""
    merge = merge_at(program, edge[0])
    index = program.by_name[edge[1]].index
    reader = next(r for o, r in zip(merge.operands, merge.readers, strict=True) if o == index)
    return program.ops[reader].name, edge[1]


def _first_reader(program: Program, name: str) -> int:
    return program.users[program.by_name[name].index][0]


def _without_gradient(program: Program, branches: dict[Edge, Skip]) -> list[Edge]:
    """The branches on which no parameter gets a gradient."""
    trained = {name: program.tensors[node] for node, name in program.parameters.items() if node in program.tensors}
    tensors: dict[str, Tensor] = {}
    if not any(parameter.requires_grad for parameter in trained.values()):
        # The whole network is frozen, for inference: check it as it is before that.
        trained = {n: t.detach().clone().requires_grad_(t.is_floating_point()) for n, t in trained.items()}
        tensors = {node: trained[name] for node, name in program.parameters.items() if name in trained}
    values: dict[Edge, Tensor] = {}
    edges = {_reader_edge(program, edge): edge for edge in branches}

    def store(edge: Edge) -> Patch:
        return lambda value: values.setdefault(edge, value)

    reseed(0)
    with torch.inference_mode(False), torch.enable_grad():
        _run(program, {reader: store(edge) for reader, edge in edges.items()}, tensors)
        return [e for e, skip in branches.items() if not _learns(program, skip, e[1], values[e], trained)]


def _learns(program: Program, skip: Skip, end: str, value: Tensor, trained: dict[str, Tensor]) -> bool:
    """Whether a random projection of a branch's value has a nonzero gradient for any parameter on it."""
    region = between(program, program.by_name[skip.fork].index, [program.by_name[end].index])
    names = {name for index in region for name in program.ops[index].weights}
    parameters = [trained[name] for name in names if name in trained and trained[name].requires_grad]
    if not value.requires_grad or not parameters:
        return False
    onto = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value)
    gradients = torch.autograd.grad(value, parameters, onto, retain_graph=True, allow_unused=True)
    return any(gradient is not None and bool(gradient.count_nonzero()) for gradient in gradients)


RULE = Rule(
    name="dead-branch",
    summary="a branch that adds nothing and cannot learn to",
    check=_check,
)
