"""The differences between the skip connections of two networks, or of two versions of one."""

import difflib
from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest

from skiplab.analysis.skips import Skip, Skips

# The fields of a record that describe the architecture rather than the graph.
FIELDS = (
    "combine",
    "shortcut",
    "weight_layers",
    "shortcut_weight_layers",
    "long",
    "shortcut_scale",
    "branch_scale",
    "steps",
    "activation_after",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A skip of both networks whose records differ.

    Attributes:
        before, after: its two records.
        fields: names of the attributes that differ; "branches" and "gates" where their number differs.
    """

    before: Skip
    after: Skip
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The differences between two networks; false where there are none.

    Attributes:
        added: skips of the second network only.
        removed: skips of the first network only.
        changed: skips of both whose records differ.
        non_skips: (path, reason) -> how many more non-skips the second network has there; negative for fewer.
    """

    added: tuple[Skip, ...]
    removed: tuple[Skip, ...]
    changed: tuple[Change, ...]
    non_skips: dict[tuple[str, str], int]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.non_skips)


def diff(before: Skips, after: Skips) -> Difference:
    """Compares two networks' skips.

    Skips correspond if their merges are in the same module; several in one module are aligned in order of execution.
    Names of nodes and lines of source are not compared.
    """
    added: list[Skip] = []
    removed: list[Skip] = []
    changed: list[Change] = []
    for path in dict.fromkeys(skip.path for skip in (*before, *after)):
        old, new = ([skip for skip in skips if skip.path == path] for skips in (before, after))
        matcher = difflib.SequenceMatcher(None, [_traits(s) for s in old], [_traits(s) for s in new], autojunk=False)
        for tag, i, j, k, m in matcher.get_opcodes():
            for one, other in zip_longest(old[i:j], new[k:m]) if tag != "equal" else ():
                if one is None:
                    added.append(other)
                elif other is None:
                    removed.append(one)
                else:
                    changed.append(Change(before=one, after=other, fields=_differing(one, other)))
    return Difference(
        added=tuple(added),
        removed=tuple(removed),
        changed=tuple(changed),
        non_skips=_more_non_skips(before, after),
    )


def trait(skip: Skip, name: str) -> object:
    """An attribute of a record; of branches and gates, whose names belong to the graph, their number."""
    return (
        len(skip.branch if name == "branches" else skip.gates) if name in ("branches", "gates") else getattr(skip, name)
    )


def _traits(skip: Skip) -> tuple:
    return tuple(trait(skip, name) for name in (*FIELDS, "branches", "gates"))


def _differing(one: Skip, other: Skip) -> tuple[str, ...]:
    return tuple(name for name in (*FIELDS, "branches", "gates") if trait(one, name) != trait(other, name))


def _more_non_skips(before: Skips, after: Skips) -> dict[tuple[str, str], int]:
    counts = Counter((each.path, each.reason) for each in after.non_skips)
    counts.subtract((each.path, each.reason) for each in before.non_skips)
    return {place: count for place, count in sorted(counts.items()) if count}
