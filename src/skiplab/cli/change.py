"""What an edit has changed, in numbers and in sentences."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from skiplab.analysis.finder import find
from skiplab.analysis.skips import Skips
from skiplab.graph.program import Program
from skiplab.measure.lesions.batchnorm import find_batch_norms
from skiplab.serialization.compare import answers_on_example, largest, rounding
from skiplab.stats.wording import plural

_DIGITS = 0.03  # an edit that says that nothing changed has to keep more digits than a file format: 1e-5 in float32
_LISTED = 4  # names of tensors or modules that are shown


@dataclass(frozen=True)
class Change:
    """Of a network before and after an edit.

    Attributes:
        skips: kind -> number before and after, such as "add/identity".
        parameters: how many numbers, before and after.
        removed, added: names of parameters and buffers.
        difference: the largest, of the outputs on the example; NaN where their shapes differ.
        size: the largest absolute number in the output before.
        rounding: how large a difference rounding explains.
    """

    skips: dict[str, tuple[int, int]]
    parameters: tuple[int, int]
    removed: list[str]
    added: list[str]
    difference: float
    size: float
    rounding: float

    def lines(self) -> list[str]:
        """A table and three sentences."""
        totals = [sum(each[i] for each in self.skips.values()) for i in (0, 1)]
        rows = [("skips", *totals), *((f"  {kind}", *n) for kind, n in self.skips.items())]
        rows = [("", "before", "after"), *rows, ("parameters", *self.parameters)]
        texts = [(name, *(n if isinstance(n, str) else f"{n:,}" for n in numbers)) for name, *numbers in rows]
        width = [max(len(text[i]) for text in texts) for i in range(3)]
        table = [f"{name:<{width[0]}}  {a:>{width[1]}}  {b:>{width[2]}}".rstrip() for name, a, b in texts]
        tensors = [("removed", self.removed), ("added", self.added)]
        return [*table, *(f"{what}: {listed(names)}" for what, names in tensors if names), self._output()]

    def _output(self) -> str:
        if self.difference == 0:
            return "output on the example: the same"
        if self.difference <= self.rounding:
            return f"output on the example: the same but for rounding ({self.difference:.2g} of {self.size:.3g})"
        return f"output on the example: changes by up to {self.difference:.3g} (its largest number was {self.size:.3g})"


def change(before: Program, after: Program) -> Change:
    """Runs both on the example."""
    kinds = [Counter(f"{skip.combine}/{skip.shortcut}" for skip in find(each)) for each in (before, after)]
    names = [_tensors(each) for each in (before, after)]
    outputs = [answers_on_example(each) for each in (before, after)]
    alike = [[each.shape for each in values] for values in outputs]
    return Change(
        skips={kind: (kinds[0][kind], kinds[1][kind]) for kind in kinds[0] | kinds[1]},
        parameters=(before.size, after.size),
        removed=[name for name in names[0] if name not in names[1]],
        added=[name for name in names[1] if name not in names[0]],
        difference=largest(*outputs) if alike[0] == alike[1] else float("nan"),
        size=max((float(each.abs().max()) for each in outputs[0] if each.numel()), default=0.0),
        rounding=min((_DIGITS * rounding(each) for each in outputs[0]), default=0.0),
    )


def notes(edit: str, before: Program, after: Program, skips: Skips, found: Change) -> Iterator[str]:
    """What the user should know beyond the numbers."""
    stay = [skip.id for skip in skips if skip.shortcut == "projection"] if edit == "remove-branch" else []
    if stay:
        yield f"projections stay on the shortcuts, since what follows expects their shape: {listed(stay)}"
    gone = _train_only(after)
    if gone:
        what = "module that acts" if len(gone) == 1 else "modules that act"
        yield f"{len(gone)} {what} in training alone will be missing when it trains: {listed(gone)}"
    known = edit == "recalibrate" or before.training or found.difference <= found.rounding
    norms = 0 if known else sum(len(norm.calls) for norm in find_batch_norms(after))
    if norms:
        keep = "keeps its" if norms == 1 else "keep their"
        yield (
            f"{plural(norms, 'batch norm')} {keep} running statistics of before the edit: measure them anew on data, "
            "or train"
        )


def listed(names: list[str]) -> str:
    """ "a, b, c, d, … (9 in all)"."""
    return ", ".join(names[:_LISTED]) + (f", … ({len(names)} in all)" if len(names) > _LISTED else "")


def _train_only(program: Program) -> list[str]:
    """Those whose surroundings are still there."""
    there = {module[:i] for op in program.ops for module in [f"{op.module}."] for i in _dots(module)}
    return [path for path in program.train_only if path.rpartition(".")[0] in {*there, ""}]


def _dots(text: str) -> list[int]:
    return [i for i, letter in enumerate(text) if letter == "."]


def _tensors(program: Program) -> dict[str, None]:
    return dict.fromkeys([*program.parameters.values(), *program.buffers.values()])
