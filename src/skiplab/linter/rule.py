"""What a lint rule is: a name, a one-line summary and a function that checks one graph."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from skiplab.analysis.skips import Skips
from skiplab.graph.program import Program
from skiplab.linter.finding import Finding


@dataclass(frozen=True, kw_only=True)
class LintContext:
    """The graph that rules check, and the user's choices.

    Attributes:
        program: a captured network.
        skips: its skip connections.
        identity_path: whether the network is meant to have a path without nonlinearities.
        notes: sentences on what could not be checked, and why; rules append to it.
    """

    program: Program
    skips: Skips
    identity_path: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A kind of mistake that `lint` looks for; its file has the same name, with underscores.

    Attributes:
        name: as findings have it: "dead-branch".
        summary: what it finds, as a phrase.
        check: yields the findings of one graph in order of execution.
        training_only: whether only a training graph can show the mistake.
    """

    name: str
    summary: str
    check: Callable[[LintContext], Iterable[Finding]]
    training_only: bool = False
