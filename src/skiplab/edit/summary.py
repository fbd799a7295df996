"""What an edit changed: skips, parameters, the output on the example, and what to do next."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from skiplab.analysis.finder import find
from skiplab.graph.program import Program
from skiplab.measure.lesions.batchnorm import find_batch_norms
from skiplab.serialization.compare import answers_on_example, largest, rounding
from skiplab.stats.wording import plural

_ROUNDING_SHARE = 0.03  # of the tolerance of a file format: 1e-5 in float32 counts as the same output
_LISTED = 4  # names of tensors or modules that are shown


@dataclass(frozen=True)
class EditSummary:
    """A network before and after an edit.

    Attributes:
        skips: kind, such as "add/identity" -> number before and after.
        parameters: their number before and after.
        removed, added: names of parameters and buffers.
        difference: the largest absolute difference of the outputs on the example; NaN where their shapes differ.
        size: the largest absolute number in the output before.
        rounding: the difference up to which the outputs count as the same.
        notes: what the numbers do not show, one sentence each.
    """

    skips: dict[str, tuple[int, int]]
    parameters: tuple[int, int]
    removed: list[str]
    added: list[str]
    difference: float
    size: float
    rounding: float
    notes: list[str]

    def table(self) -> pd.DataFrame:
        """Numbers of skips, in all and by kind, and of parameters; columns: before, after."""
        total = tuple(sum(counts) for counts in zip(*self.skips.values(), strict=True)) or (0, 0)
        kinds = {f"  {kind}": counts for kind, counts in self.skips.items()}
        rows = {"skips": total, **kinds, "parameters": self.parameters}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["before", "after"])

    def answer(self) -> list[str]:
        """One sentence each for the tensors removed, the tensors added, and the output."""
        tensors = {"removed": self.removed, "added": self.added}
        return [*(f"{what}: {_shortened(names)}" for what, names in tensors.items() if names), self._output()]

    def _output(self) -> str:
        if self.difference == 0:
            return "output on the example: the same"
        if self.difference <= self.rounding:
            return f"output on the example: the same but for rounding ({self.difference:.2g} of {self.size:.3g})"
        return f"output on the example: changes by up to {self.difference:.3g} (its largest number was {self.size:.3g})"

    def __str__(self) -> str:
        return "\n".join([str(self.table()), *self.answer(), *(f"note: {note}" for note in self.notes)])

    __repr__ = __str__


def summarize(before: Program, after: Program) -> EditSummary:
    """Compares a program with what an edit made of it. Runs both on the example.

    Args:
        before: the program that was edited.
        after: the program that the edit returned.
    """
    kinds = [Counter(f"{skip.combine}/{skip.shortcut}" for skip in find(program)) for program in (before, after)]
    names = [_tensor_names(program) for program in (before, after)]
    outputs = [answers_on_example(program) for program in (before, after)]
    difference, tolerance = _difference(*outputs), min((_ROUNDING_SHARE * rounding(t) for t in outputs[0]), default=0.0)
    return EditSummary(
        skips={kind: (kinds[0][kind], kinds[1][kind]) for kind in kinds[0] | kinds[1]},
        parameters=(before.size, after.size),
        removed=[name for name in names[0] if name not in names[1]],
        added=[name for name in names[1] if name not in names[0]],
        difference=difference,
        size=max((float(tensor.abs().max()) for tensor in outputs[0] if tensor.numel()), default=0.0),
        rounding=tolerance,
        notes=list(_notes(before, after, same_output=difference <= tolerance)),
    )


def _difference(before: list[Tensor], after: list[Tensor]) -> float:
    shapes = [[tensor.shape for tensor in outputs] for outputs in (before, after)]
    return largest(before, after) if shapes[0] == shapes[1] else float("nan")


def _notes(before: Program, after: Program, *, same_output: bool) -> Iterator[str]:
    if projections := _remaining_projections(before, after):
        yield f"projections stay on the shortcuts, since what follows expects their shape: {_shortened(projections)}"
    if missing := _missing_in_training(after):
        what = "module that acts" if len(missing) == 1 else "modules that act"
        yield f"{len(missing)} {what} only in training will be missing when it trains: {_shortened(missing)}"
    stale = 0 if same_output or before.training else _stale_batch_norms(before, after)
    if stale:
        keep = "keeps its" if stale == 1 else "keep their"
        yield (
            f"{plural(stale, 'batch norm')} {keep} running statistics from before the edit: re-estimate them with "
            "`recalibrate`, or train"
        )


def _remaining_projections(before: Program, after: Program) -> list[str]:
    """Skips that are gone, while the projection on their shortcut is still there."""
    left = find(after)
    ids, merges = {skip.id for skip in left}, {skip.merge for skip in left}
    return [
        skip.id
        for skip in find(before)
        if skip.shortcut == "projection" and skip.operand in after.by_name
        if skip.id not in ids and skip.merge not in merges
    ]


def _missing_in_training(program: Program) -> list[str]:
    """Modules that the graph leaves out because they act only in training, where their parent module is still there."""
    parts = [op.module.split(".") for op in program.ops]
    present = {".".join(path[:depth]) for path in parts for depth in range(len(path) + 1)}
    return [path for path in program.train_only if path.rpartition(".")[0] in present]


def _stale_batch_norms(before: Program, after: Program) -> int:
    """Calls of batch norms whose statistics the edit did not re-estimate."""
    known = {mean for mean, tensor in before.tensors.items() if after.tensors.get(mean) is not tensor}
    return sum(len(norm.calls) for norm in find_batch_norms(after) if norm.mean not in known)


def _shortened(names: list[str]) -> str:
    """ "a, b, c, d, … (9 in all)"."""
    return ", ".join(names[:_LISTED]) + (f", … ({len(names)} in all)" if len(names) > _LISTED else "")


def _tensor_names(program: Program) -> dict[str, None]:
    return dict.fromkeys([*program.parameters.values(), *program.buffers.values()])
