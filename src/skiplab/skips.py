"""The records of what `find` finds: one frozen `Skip` for each skip connection, and selections of them."""

import fnmatch
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal, overload

import pandas as pd

from skiplab.errors import SelectionError, StaleSkip
from skiplab.program import Program

Combine = Literal["add", "concat", "gated"]
Shortcut = Literal["identity", "resample", "projection", "gated"]


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
        weight_layers: weight layers on the longest way through the branch.
        shortcut_weight_layers: weight layers on the shortcut, 0 or 1.
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
    activation_after: str | None
    source: str | None
    parent: str | None
    program: str


@dataclass(frozen=True, slots=True)
class Apart:
    """A merge that meets the definition's letter but is listed apart, with the reason."""

    merge: str
    path: str
    reason: Literal["foldable"]
    source: str | None


class Skips(Sequence[Skip]):
    """The skip connections of one program, in order of their merges."""

    def __init__(self, skips: Iterable[Skip], apart: Iterable[Apart] = ()) -> None:
        self._skips = tuple(skips)
        self.apart = tuple(apart)

    @overload
    def __getitem__(self, index: int) -> Skip: ...
    @overload
    def __getitem__(self, index: slice) -> "Skips": ...
    def __getitem__(self, index: int | slice) -> "Skip | Skips":
        return Skips(self._skips[index]) if isinstance(index, slice) else self._skips[index]

    def __len__(self) -> int:
        return len(self._skips)

    def __repr__(self) -> str:
        kinds = Counter(f"{s.combine}/{s.shortcut}" for s in self)
        return f"<{len(self)} skips: {', '.join(f'{n} {kind}' for kind, n in kinds.items()) or 'none'}>"

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False)

    def at(self, pattern: str) -> "Skips":
        """Those whose path or id matches a shell pattern: `layer2.*`."""
        return Skips(s for s in self if fnmatch.fnmatch(s.path, pattern) or fnmatch.fnmatch(s.id, pattern))

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

    def check(self, program: Program) -> "Skips":
        """Itself, when found in `program`; StaleSkip otherwise."""
        for skip in self:
            if skip.program != program.fingerprint:
                raise StaleSkip(f"skip `{skip.id}` was found in another program: call `find` on this one again")
        return self
