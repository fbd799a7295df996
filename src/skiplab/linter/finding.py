"""The results of `lint`: one frozen `Finding` for each likely mistake, and their sequence."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, overload

import pandas as pd

from skiplab.graph.ops import Op

SCHEMA = "skiplab.lint/2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One likely mistake around a skip connection.

    Attributes:
        rule: name of the rule.
        path: path of the module whose `forward` holds it; "" for the root.
        source: "file:line" of it, as absolute path; None where the graph does not know.
        what: what the code does.
        why: why it matters.
        fix: what to write instead.
        reference: where to read more.
    """

    rule: str
    path: str
    source: str | None
    what: str
    why: str
    fix: str
    reference: str


class Findings(Sequence[Finding]):
    """The findings of one network, by rule and in order of execution, each once.

    Attributes:
        notes: sentences on what `lint` could not check, and why.
    """

    def __init__(self, findings: Iterable[Finding] = (), notes: Iterable[str] = ()) -> None:
        self._findings = tuple(dict.fromkeys(findings))  # a module may be called twice
        self.notes = tuple(dict.fromkeys(notes))

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> "Findings": ...
    def __getitem__(self, index: int | slice) -> "Finding | Findings":
        return Findings(self._findings[index], self.notes) if isinstance(index, slice) else self._findings[index]

    def __len__(self) -> int:
        return len(self._findings)

    def __add__(self, other: "Findings") -> "Findings":
        """The findings of two graphs of one network, each once, and the notes that both graphs have."""
        return Findings((*self, *other), (note for note in self.notes if note in other.notes))

    def __repr__(self) -> str:
        rules = Counter(finding.rule for finding in self)
        return f"<{len(self)} findings: {', '.join(f'{n} {rule}' for rule, n in rules.items()) or 'none'}>"

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False)

    def table(self) -> pd.DataFrame:
        """One row per finding; the columns are the attributes of `Finding`."""
        columns = [field.name for field in fields(Finding)]
        return pd.DataFrame([asdict(finding) for finding in self], columns=columns)


def op_label(op: Op) -> str:
    """An op in a message: "`layer1.0.relu` (relu)", or "relu" in the root module."""
    return f"`{op.module}` ({op.target})" if op.module else op.target


def findings_json(model: str, findings: Findings) -> dict[str, Any]:
    """The JSON of `skiplab lint --json`."""
    return {
        "schema": SCHEMA,
        "model": model,
        "findings": [asdict(finding) for finding in findings],
        "notes": list(findings.notes),
    }
