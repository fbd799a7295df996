"""Find the skip connections of a program: fork → (shortcut ∥ branch) → merge, by the definition of DESIGN §2.

Each stage is a module of its own and runs once over the whole program:

    merges           additions and concatenations, chains of additions as one
    shortcut_match   operands of a merge that end a shortcut
    non_skips        merges and products that are no skip, each with its reason
    skip_records     records of the remaining matches
    recurrent_cells  records of the cell states inside fused operators
    nesting          which skip lies on the branch of which
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from skiplab.analysis.backtrace import ShortcutTraces
from skiplab.analysis.merges import merges
from skiplab.analysis.nesting import parents
from skiplab.analysis.non_skips import separate_non_skips
from skiplab.analysis.recurrent_cells import cell_skips
from skiplab.analysis.shortcut_match import match_shortcuts
from skiplab.analysis.skip_records import SkipCandidate, skip_candidates
from skiplab.analysis.skips import Skip, Skips
from skiplab.graph.program import Program


def find(program: Program) -> Skips:
    """Every skip connection of a program, nested ones too; other places where paths meet are in `non_skips`."""
    traces, joined = ShortcutTraces(program), merges(program)
    matches, non_skips = separate_non_skips(traces, joined, match_shortcuts(traces, joined))
    candidates = [*skip_candidates(program, matches), *cell_skips(program)]
    candidates.sort(key=lambda candidate: candidate.merge)  # those of one merge stay in order of its operands
    return Skips(_with_parents(candidates, _with_ids(candidates)), non_skips)


def _with_ids(candidates: Sequence[SkipCandidate]) -> list[Skip]:
    """The id is the path, with a number where several skips share the path."""
    total = Counter(candidate.skip.path for candidate in candidates)
    seen: Counter[str] = Counter()
    skips = []
    for skip in (candidate.skip for candidate in candidates):
        seen[skip.path] += 1
        number = f"#{seen[skip.path]}" if total[skip.path] > 1 else ""
        skips.append(replace(skip, id=(skip.path or "forward") + number))
    return skips


def _with_parents(candidates: Sequence[SkipCandidate], skips: list[Skip]) -> list[Skip]:
    places = [place for place, candidate in enumerate(candidates) if candidate.span is not None]
    outer = parents([candidate.span for candidate in candidates if candidate.span is not None])
    nested = list(skips)
    for place, parent in zip(places, outer, strict=True):
        if parent is not None:
            nested[place] = replace(skips[place], parent=skips[places[parent]].id)
    return nested
