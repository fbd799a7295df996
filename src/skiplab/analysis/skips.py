"""The records of what `find` finds: one frozen `Skip` for each skip connection, and selections of them."""

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


@dataclass(frozen=True, slots=True)
class Skip:
    """One skip connection. It names nodes of its program, and so can be stored and read back.

    Attributes:
        id: unique in its program: the module's path, numbered where a module holds several.
        path: path of the module in whose `forward` the merge stands; "" for the root.
        combine: how the merge joins.
        shortcut: kind of the shortcut.
        fork: node whose value both ways start from.
        merge: node where they meet again.
        operand: the merge's operand at the end of the shortcut.
        branch: the merge's operands that depend on the fork through more weight layers.
        weight_layers: weight layers on the longest way through the branch; 0 at a scan's step, whose branch
            does not start from the fork.
        shortcut_weight_layers: weight layers on the shortcut, 0 or 1.
        long: whether the branch goes down in resolution and up again, as around a U-Net's bottom.
        shortcut_scale: factors on the shortcut: numbers, names of parameters; "-1" where the signal is
            subtracted.
        branch_scale: the same for the branch's end (layer-scale, ReZero); "random" stands for drop-path.
        gates: nodes that multiply the shortcut (those values of a product that are no way back to the fork).
        steps: for a fused recurrent operator, whose cell state is a gated skip at each time step: how many
            steps the example has. Then fork, merge, operand and branch are that operator. None else.
        activation_after: activation function applied to the merge before anything else reads it, if any.
        source: "file:line" of the merge.
        parent: id of the innermost skip on whose branch this one lies.
        program: fingerprint of the program in which it was found.
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
    steps: int | None
    activation_after: str | None
    source: str | None
    parent: str | None
    program: str


@dataclass(frozen=True, slots=True)
class Apart:
    """An op at which ways of the signal meet, and which is no skip connection.

    Attributes:
        op: its node.
        path: path of the module in whose `forward` it stands; "" for the root.
        reason: "gate": one value weights another (squeeze-excite, SwiGLU). "fusion": ways meet none of which
            is light (Inception, HRNet). "foldable": ways meet that are all linear, one layer in disguise
            (RepVGG). "unknown": the signal is carried past a branch in no way that has a name.
        detail: what makes it so.
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
    """

    def __init__(self, skips: Iterable[Skip], apart: Iterable[Apart] = ()) -> None:
        self._skips = tuple(skips)
        self.apart = tuple(apart)

    @overload
    def __getitem__(self, index: int) -> Skip: ...
    @overload
    def __getitem__(self, index: slice) -> "Skips": ...
    def __getitem__(self, index: int | slice) -> "Skip | Skips":
        return Skips(self._skips[index], self.apart) if isinstance(index, slice) else self._skips[index]

    def __len__(self) -> int:
        return len(self._skips)

    def __repr__(self) -> str:
        kinds = Counter(f"{s.combine}/{s.shortcut}" for s in self)
        return f"<{len(self)} skips: {', '.join(f'{n} {kind}' for kind, n in kinds.items()) or 'none'}>"

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False)

    def at(self, pattern: str) -> "Skips":
        """Those whose path or id matches a shell pattern (`layer2.*`), and the non-skips whose path does."""
        skips = (s for s in self if fnmatch.fnmatch(s.path, pattern) or fnmatch.fnmatch(s.id, pattern))
        return Skips(skips, (each for each in self.apart if fnmatch.fnmatch(each.path, pattern)))

    def expect(self, count: int) -> "Skips":
        """Itself, when it holds `count` skips; SelectionError otherwise."""
        if len(self) != count:
            some = ", ".join(s.id for s in self[:5]) + (", …" if len(self) > 5 else "")
            raise SelectionError(f"expected {count} skips, found {len(self)}" + (f": {some}" if some else ""))
        return self

    def table(self) -> pd.DataFrame:
        """One row a skip, columns as the attributes of `Skip`."""
        columns = [field.name for field in fields(Skip)]
        return pd.DataFrame([asdict(s) for s in self], columns=columns)

    def in_graph(self) -> "Skips":
        """Those whose merge is an op of the graph, and not inside a fused recurrent operator; all non-skips."""
        return Skips((skip for skip in self if skip.steps is None), self.apart)

    def require_merges(self) -> "Skips":
        """Itself, when all lie in the graph, where values can be measured and changed; UsageError otherwise."""
        for skip in self:
            if skip.steps is not None:
                raise UsageError(
                    f"skip `{skip.id}` is a cell state inside the operator `{skip.merge}`, where nothing can be "
                    "measured or changed: leave such skips out with `skips.in_graph()`"
                )
        return self

    def check(self, program: Program) -> "Skips":
        """Itself, when found in `program`; StaleSkip otherwise."""
        for skip in self:
            if skip.program != program.fingerprint:
                raise StaleSkip(f"skip `{skip.id}` was found in another program: call `find` on this one again")
        return self
