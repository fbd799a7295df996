"""What is removed as one: a block, or all blocks that end in one module's `forward` (a layer of a Transformer)."""

from dataclasses import dataclass
from typing import Literal

from skiplab.analysis.finder import find
from skiplab.analysis.skips import Skip, Skips
from skiplab.errors import UsageError
from skiplab.graph.program import Program

By = Literal["block", "module"]


@dataclass(frozen=True)
class Unit:
    """Skip connections that lose their branches together.

    Attributes:
        id: of the first of them in the whole network, or their module's path.
        skips: in order of their merges.
    """

    id: str
    skips: tuple[Skip, ...]


class Units:
    """The units of a network, and those that are left of them when some are gone.

    An edit keeps the names of merges, by which a block of the smaller network is known.
    """

    def __init__(self, program: Program, skips: Skips, by: By) -> None:
        self._names: dict[str, str] = {}
        for skip in skips.check(program).require_merges():
            self._names.setdefault(skip.merge, skip.path or skip.id if by == "module" else skip.id)
        self.all = self.of(program)
        if not self.all:
            raise UsageError(f"{program.name} has no skip connection (among those given) whose branch could go")

    def of(self, program: Program) -> list[Unit]:
        """Those of the network, or of one made of it, in order of their first merges."""
        units: dict[str, list[Skip]] = {}
        for skip in find(program).in_graph():
            if skip.merge in self._names:
                units.setdefault(self._names[skip.merge], []).append(skip)
        return [Unit(name, tuple(skips)) for name, skips in units.items()]
