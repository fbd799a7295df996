"""Where a network that has no shortcuts could have some: pairs of values on the one way that all its data take."""

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
    """A shortcut that could be: from the value of one op to that of a later one.

    Attributes:
        start, end: names of the ops, as in `Program.ops`.
        path: the innermost module in which all lies that is between them.
    """

    start: str
    end: str
    path: str


def places(program: Program, every: int = 2, placement: Placement = "post") -> list[Place]:
    """Proposes a shortcut around every few weight layers of a network, as residual networks have them.

    The first weight layer (the stem) and the last (the head) are left out, and so are layers that lie beside others:
    only those count through which all the data go.

    Args:
        program: the network.
        every: how many weight layers a shortcut goes around.
        placement: "post": from what the first of them takes to what the last of them gives, normalised, before the
            activation (He et al. 2016, arXiv:1512.03385, Fig. 2). "pre": from what the layer before gives to what the
            last gives, so that norm and activation come to lie on the branch (arXiv:1603.05027, Fig. 4e).

    Raises:
        UsageError: for every < 1; for a network with fewer than every + 2 such layers.
    """
    if every < 1:
        raise UsageError(f"every={every}: give how many weight layers a shortcut goes around, at least 1")
    if placement not in ("post", "pre"):
        raise UsageError(f"placement={placement!r}: choose post or pre")
    chain = _chain(program)
    at = [place for place, op in enumerate(chain) if op.kind in WEIGHT_LAYERS]
    if len(at) < every + 2:
        raise UsageError(
            f"{program.name} has {len(at)} weight layers through which all data go: a shortcut around {every} of them, "
            f"between the first and the last, needs {every + 2}"
        )
    found = []
    for first in range(1, len(at) - every, every):
        last = at[first + every - 1]
        start = chain[at[first - 1] if placement == "pre" else at[first] - 1]
        end = chain[last if placement == "pre" else _normalised(chain, last)]
        if start.shape and end.shape:  # and not, as of a split, several values
            found.append(place(program, start.name, end.name))
    return found


def place(program: Program, start: str, end: str) -> Place:
    """The place between two values, each named by an op or by a module, which stands for what it gives.

    Raises:
        UsageError: for a name that neither has; where no way leads from start to end through a weight layer.
    """
    first, last = _named(program, start), _named(program, end)
    for name, op in ((start, first), (end, last)):
        if not op.shape:
            raise UsageError(f"`{name}` gives no tensor, but {op.target} of several values: give one of them")
    region = between(program, first.index, [last.index])
    if not any(program.ops[index].kind in WEIGHT_LAYERS for index in region):
        raise UsageError(
            f"no way leads from `{start}` to `{end}` through a weight layer, so there is nothing to go around: give a "
            "value, and one that is computed from it"
        )
    return Place(first.name, last.name, common_path(program.ops[index].module for index in region))


def _chain(program: Program) -> list[Op]:
    """The ops through which all ways from the inputs to the outputs lead, in order."""
    crossed = (program.ops[index] for index in ops_on_every_path(program, program.useful))
    return [op for op in crossed if op.kind != "input"]


def _normalised(chain: list[Op], layer: int) -> int:
    """The place on the chain up to which nothing but norms and views of the layer's value come."""
    for op in chain[layer + 1 :]:
        if op.kind not in ("batch_norm", "norm", "view") or not op.shape:
            break
        layer += 1
    return layer


def _named(program: Program, name: str) -> Op:
    if name in program.by_name:
        return program.by_name[name]
    inside = [op for op in program.ops if op.module == name or op.module.startswith(f"{name}.")]
    if not inside:
        some = ", ".join(dict.fromkeys(op.module for op in program.ops if op.module))[:200]
        raise UsageError(f"there is no op and no module `{name}` in {program.name}; its modules are {some}")
    return inside[-1]
