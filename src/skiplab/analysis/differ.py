"""What changed between the skip connections of two networks, or of one network at two times."""

import difflib
from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest

from skiplab.analysis.skips import Skip, Skips

# What a record says of the architecture, and not of the graph in which it was found.
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


@dataclass(frozen=True, slots=True)
class Change:
    """A skip that is in both networks, and not the same.

    Attributes:
        before, after: its two records.
        fields: names of the attributes that differ; "branches" and "gates" when there are more or fewer of them.
    """

    before: Skip
    after: Skip
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """What one network has and the other has not; true when there is anything.

    Attributes:
        added, removed: skips of the second network alone, and of the first.
        changed: skips of both that differ.
        apart: (path, reason) -> how many more the second network lists apart there; negative for fewer.
    """

    added: tuple[Skip, ...]
    removed: tuple[Skip, ...]
    changed: tuple[Change, ...]
    apart: dict[tuple[str, str], int]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.apart)


def diff(before: Skips, after: Skips) -> Difference:
    """Compares two networks' skips.

    Skips correspond when they stand in the same module; where a module holds several, they are aligned in order
    of execution. Names of nodes and lines of source do not count.
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
                    changed.append(Change(one, other, _differing(one, other)))
    return Difference(tuple(added), tuple(removed), tuple(changed), _apart(before, after))


def trait(skip: Skip, name: str) -> object:
    """A record's attribute; the number of branches or gates, whose names are those of a graph's nodes."""
    return (
        len(skip.branch if name == "branches" else skip.gates) if name in ("branches", "gates") else getattr(skip, name)
    )


def _traits(skip: Skip) -> tuple:
    return tuple(trait(skip, name) for name in (*FIELDS, "branches", "gates"))


def _differing(one: Skip, other: Skip) -> tuple[str, ...]:
    return tuple(name for name in (*FIELDS, "branches", "gates") if trait(one, name) != trait(other, name))


def _apart(before: Skips, after: Skips) -> dict[tuple[str, str], int]:
    counts = Counter((each.path, each.reason) for each in after.apart)
    counts.subtract((each.path, each.reason) for each in before.apart)
    return {place: count for place, count in sorted(counts.items()) if count}
