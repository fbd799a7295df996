"""What `lint` finds: one frozen `Finding` for each mistake, and their sequence."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, overload

import pandas as pd

SCHEMA = "skiplab.lint/1"

Rule = Literal[
    "overwritten-shortcut",
    "no-identity-path",
    "drop-path-without-shortcut",
    "shared-drop-path",
    "nonlinear-shortcut",
    "dead-branch",
    "broadcast-merge",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing around a skip connection that is likely to be a mistake.

    Attributes:
        rule: which of the rules found it.
        path: path of the module in whose `forward` it stands; "" for the root.
        source: "file:line" of it, as absolute path; None where the graph does not know.
        what: what stands there.
        why: why it matters.
        mend: what to write instead.
        reference: where to read more.
    """

    rule: Rule
    path: str
    source: str | None
    what: str
    why: str
    mend: str
    reference: str


class Findings(Sequence[Finding]):
    """The findings of one network, by rule and in order of execution.

    Attributes:
        notes: sentences on what could not be checked, and why.
    """

    def __init__(self, findings: Iterable[Finding] = (), notes: Iterable[str] = ()) -> None:
        self._findings = tuple(dict.fromkeys(findings))  # a module that is called twice is wrong once
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
        """The findings of two graphs of one network, each once; a note stays where neither graph could tell."""
        return Findings((*self, *other), (note for note in self.notes if note in other.notes))

    def __repr__(self) -> str:
        rules = Counter(finding.rule for finding in self)
        return f"<{len(self)} findings: {', '.join(f'{n} {rule}' for rule, n in rules.items()) or 'none'}>"

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False)

    def table(self) -> pd.DataFrame:
        """One row a finding, columns as the attributes of `Finding`."""
        columns = [field.name for field in fields(Finding)]
        return pd.DataFrame([asdict(finding) for finding in self], columns=columns)


def findings_json(model: str, findings: Findings) -> dict[str, Any]:
    """What `skiplab lint --json` prints."""
    return {
        "schema": SCHEMA,
        "model": model,
        "findings": [asdict(finding) for finding in findings],
        "notes": list(findings.notes),
    }
