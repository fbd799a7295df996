"""Places for new shortcuts: pairs of values on the path that all data take."""

from dataclasses import dataclass
from typing import Literal

from skiplab.analysis.reachability import between, ops_on_every_path
from skiplab.errors import UsageError
from skiplab.graph.ops import WEIGHT_LAYERS, Op
from skiplab.graph.program import Program
from skiplab.graph.source_map import common_path

Placement = Literal["post", "pre"]


@dataclass(frozen=True, slots=True)
class Place:
    """A possible shortcut, from the value of one op to the value of a later one.

    Attributes:
        start, end: names of the ops, as in `Program.ops`.
        path: the innermost module that holds everything between them.
    """

    start: str
    end: str
    path: str


def places(program: Program, every: int = 2, placement: Placement = "post") -> list[Place]:
    """Proposes a shortcut around every few weight layers, as in residual networks.

    The first weight layer (the stem) and the last (the head) are left out. So are layers in parallel branches: only
    layers that all data pass through count.

    Args:
        program: the network.
        every: number of weight layers that a shortcut goes around.
        placement: "post": from the input of the first layer to the output of the last, after its norm and before the
            activation (He et al. 2016, arXiv:1512.03385, Fig. 2). "pre": from the output of the layer before to the
            output of the last, so that norm and activation lie on the branch (arXiv:1603.05027, Fig. 4e).

    Raises:
        UsageError: for every < 1; for a network with fewer than every + 2 such layers.
    """
    if every < 1:
        raise UsageError(f"every={every}: give the number of weight layers that a shortcut goes around, at least 1")
    if placement not in ("post", "pre"):
        raise UsageError(f"placement={placement!r}: choose post or pre")
    chain = _chain(program)
    at = [place for place, op in enumerate(chain) if op.kind in WEIGHT_LAYERS]
    if len(at) < every + 2:
        raise UsageError(
            f"{program.name} has {len(at)} weight layers that all data pass: a shortcut around {every} of them, "
            f"between the first and the last, needs {every + 2}"
        )
    found = []
    for first in range(1, len(at) - every, every):
        last = at[first + every - 1]
        start = chain[at[first - 1] if placement == "pre" else at[first] - 1]
        end = chain[last if placement == "pre" else _last_norm(chain, last)]
        if start.shape and end.shape:  # not several values, such as those of a split
            found.append(place(program, start.name, end.name))
    return found


def place(program: Program, start: str, end: str) -> Place:
    """The place between two values. Each is named by an op, or by a module, which stands for its output.

    Raises:
        UsageError: for a name that is neither; where no path leads from start to end through a weight layer.
    """
    first, last = _op_named(program, start), _op_named(program, end)
    for name, op in ((start, first), (end, last)):
        if not op.shape:
            raise UsageError(f"`{name}` returns several values ({op.target}): name the op of one of them")
    region = between(program, first.index, [last.index])
    if not any(program.ops[index].kind in WEIGHT_LAYERS for index in region):
        raise UsageError(
            f"no path leads from `{start}` to `{end}` through a weight layer, so there is nothing to go around: name a "
            "value and a later one computed from it"
        )
    return Place(first.name, last.name, common_path(program.ops[index].module for index in region))


def _chain(program: Program) -> list[Op]:
    """The ops that all paths from the inputs to the outputs pass through, in order."""
    crossed = (program.ops[index] for index in ops_on_every_path(program, program.useful))
    return [op for op in crossed if op.kind != "input"]


def _last_norm(chain: list[Op], layer: int) -> int:
    """The index in the chain of the last op after a layer with only norms and views in between."""
    for op in chain[layer + 1 :]:
        if op.kind not in ("batch_norm", "norm", "view") or not op.shape:
            break
        layer += 1
    return layer


def _op_named(program: Program, name: str) -> Op:
    if name in program.by_name:
        return program.by_name[name]
    inside = [op for op in program.ops if op.module == name or op.module.startswith(f"{name}.")]
    if not inside:
        some = ", ".join(dict.fromkeys(op.module for op in program.ops if op.module))[:200]
        raise UsageError(f"there is no op and no module `{name}` in {program.name}; its modules are {some}")
    return inside[-1]
