"""The records that `find` returns, `Skip` and `NonSkip`, and selections of skips."""

import fnmatch
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal, overload

import pandas as pd

from skiplab.errors import SelectionError, StaleSkip, UsageError
from skiplab.graph.program import Program

Combine = Literal["add", "concat", "gated"]
Shortcut = Literal["identity", "resample", "projection", "gated"]
Reason = Literal["gate", "fusion", "foldable", "unknown"]
Location = Literal["graph", "fused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """One skip connection. It refers to nodes of its program by name, so it can be stored and read back.

    Attributes:
        id: unique in its program: the module's path, numbered where a module has several skips.
        path: path of the module whose `forward` holds the merge; "" for the root.
        combine: how the merge joins shortcut and branch.
        shortcut: kind of the shortcut.
        fork: node from whose value shortcut and branch start.
        merge: node where they meet again.
        operand: the merge's operand at the end of the shortcut.
        branch: the merge's operands that depend on the fork through more weight layers.
        weight_layers: weight layers on the longest path through the branch; 0 at a scan's step, whose branch
            does not start from the fork.
        shortcut_weight_layers: weight layers on the shortcut, 0 or 1.
        long: whether the branch goes down in resolution and up again, as around a U-Net's bottom.
        shortcut_scale: factors on the shortcut: numbers and names of parameters; "-1" where the signal is
            subtracted.
        branch_scale: the same for the end of the branch (layer-scale, ReZero); "random" stands for drop-path.
        gates: nodes that multiply the shortcut: the factor of each product that is not the carried signal.
        location: "graph": fork, merge, operand and branch are nodes of the graph. "fused": the skip is the cell state
            inside one fused recurrent operator, which all four of them name; it cannot be measured or changed.
        steps: time steps of a fused recurrent operator on the example, each of which has this skip; None in the graph.
        activation_after: activation function applied to the merge before any other op reads it, if any.
        source: "file:line" of the merge.
        parent: id of the innermost skip on whose branch this one lies.
        program: fingerprint of the program that has the skip.
    """

    id: str
    path: str
    combine: Combine
    shortcut: Shortcut
    fork: str
    merge: str
    operand: str
    branch: tuple[str, ...]
    weight_layers: int
    shortcut_weight_layers: int
    long: bool
    shortcut_scale: tuple[str, ...]
    branch_scale: tuple[str, ...]
    gates: tuple[str, ...]
    location: Location
    steps: int | None
    activation_after: str | None
    source: str | None
    parent: str | None
    program: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NonSkip:
    """An op at which paths of the signal meet without a skip connection.

    Attributes:
        op: its node.
        path: path of the module whose `forward` holds it; "" for the root.
        reason: "gate": one value weights another (squeeze-excite, SwiGLU). "fusion": several paths meet, and none is a
            shortcut (Inception, HRNet). "foldable": all paths are linear with a weight layer each, so that one layer
            could replace them (RepVGG). "unknown": something carries the signal past a branch that has no name here.
        detail: the finding in words.
        source: "file:line".
    """

    op: str
    path: str
    reason: Reason
    detail: str
    source: str | None


class Skips(Sequence[Skip]):
    """The skip connections of one program, in order of their merges.

    A selection keeps the non-skips of the place that it selects: `at` those whose path matches; a slice and `in_graph`,
    which select no place, all of them.

    Attributes:
        non_skips: ops at which paths meet without a skip connection, in order of execution.
    """

    def __init__(self, skips: Iterable[Skip], non_skips: Iterable[NonSkip] = ()) -> None:
        self._skips = tuple(skips)
        self.non_skips = tuple(non_skips)

    @overload
    def __getitem__(self, index: int) -> Skip: ...
    @overload
    def __getitem__(self, index: slice) -> "Skips": ...
    def __getitem__(self, index: int | slice) -> "Skip | Skips":
        return Skips(self._skips[index], self.non_skips) if isinstance(index, slice) else self._skips[index]

    def __len__(self) -> int:
        return len(self._skips)

    def __repr__(self) -> str:
        kinds = Counter(f"{s.combine}/{s.shortcut}" for s in self)
        return f"<{len(self)} skips: {', '.join(f'{n} {kind}' for kind, n in kinds.items()) or 'none'}>"

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False)

    def at(self, pattern: str) -> "Skips":
        """Those whose path or id is this text, or matches it as a shell pattern (`layer2.*`); non-skips by path."""

        def matches(name: str) -> bool:  # a name may hold brackets, which a pattern reads as a set of letters
            return name == pattern or fnmatch.fnmatch(name, pattern)

        skips = (skip for skip in self if matches(skip.path) or matches(skip.id))
        return Skips(skips, (each for each in self.non_skips if matches(each.path)))

    def expect(self, count: int) -> "Skips":
        """These skips, if there are `count` of them; SelectionError otherwise."""
        if len(self) != count:
            some = ", ".join(s.id for s in self[:5]) + (", …" if len(self) > 5 else "")
            raise SelectionError(f"expected {count} skips, found {len(self)}" + (f": {some}" if some else ""))
        return self

    def table(self) -> pd.DataFrame:
        """One row per skip; the columns are the attributes of `Skip`."""
        columns = [field.name for field in fields(Skip)]
        return pd.DataFrame([asdict(s) for s in self], columns=columns)

    def in_graph(self) -> "Skips":
        """The skips outside fused recurrent operators: those that can be measured and changed."""
        return Skips((skip for skip in self if skip.location == "graph"), self.non_skips)

    def require_merges(self) -> "Skips":
        """These skips, if all can be measured and changed; UsageError if one is inside a fused operator."""
        for skip in self:
            if skip.location == "fused":
                raise UsageError(
                    f"skip `{skip.id}` is a cell state inside the operator `{skip.merge}`, and can be neither measured "
                    "nor changed: leave such skips out with `skips.in_graph()`"
                )
        return self

    def check(self, program: Program) -> "Skips":
        """These skips, if they are skips of `program`; StaleSkip otherwise."""
        for skip in self:
            if skip.program != program.fingerprint:
                raise StaleSkip(f"skip `{skip.id}` was found in another program: call `find` on this one again")
        return self
