"""Units of removal: a block, or all blocks that end in the `forward` of one module (a layer of a Transformer)."""

from dataclasses import dataclass

from skiplab.analysis.finder import find
from skiplab.analysis.skips import Skip, Skips
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.pruning.options import UnitKind


@dataclass(frozen=True)
class Unit:
    """Skip connections whose branches are removed together.

    Attributes:
        id: the id of the first skip in the whole network, or the path of the module.
        skips: in order of their merges.
    """

    id: str
    skips: tuple[Skip, ...]


class Units:
    """The units of a network, and those left in a smaller network made from it.

    Removing branches keeps the names of merges, which identify blocks in the smaller network.
    """

    def __init__(self, program: Program, skips: Skips, kind: UnitKind) -> None:
        self._names: dict[str, str] = {}
        for skip in skips.check(program).require_merges():
            self._names.setdefault(skip.merge, skip.path or skip.id if kind == "module" else skip.id)
        self.all = self.of(program)
        if not self.all:
            raise UsageError(f"{program.name} has no skip connection (among those given) whose branch can be removed")

    def of(self, program: Program) -> list[Unit]:
        """The units of the network, or of a smaller one, in order of their first merges."""
        units: dict[str, list[Skip]] = {}
        for skip in find(program).in_graph():
            if skip.merge in self._names:
                units.setdefault(self._names[skip.merge], []).append(skip)
        return [Unit(name, tuple(skips)) for name, skips in units.items()]
