"""Targets of edits: skips, insertion points of new ones, batches for batch norm statistics, or the whole network."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skiplab.cli.common_options import DataName
from skiplab.cli.model_options import ModelOptions, select
from skiplab.edit.insertion_points import Place, Placement, place, places
from skiplab.errors import UsageError, format_shape
from skiplab.stats.wording import plural

if TYPE_CHECKING:
    from skiplab.graph.program import Program

_MAX_PLACES = 6  # printed insertion points


@dataclass(frozen=True)
class EditTarget:
    """The target of an edit in one program.

    Attributes:
        heading: middle part of the heading "EDIT … MODEL".
        arguments: arguments of the edit's function, after the program.
        skip_ids: the ids of the edited skips.
        lines: to print below the heading.
    """

    heading: str
    arguments: tuple[Any, ...] = ()
    skip_ids: list[str] = field(default_factory=list)
    lines: tuple[str, ...] = ()


class TargetOptions(ABC):
    """Options that select the target of an edit."""

    @abstractmethod
    def select(self, program: "Program", model: ModelOptions) -> EditTarget:
        """The target in a program; raises UsageError if there is none."""


@dataclass(frozen=True)
class NetworkOptions(TargetOptions):
    """The whole network."""

    def select(self, program: "Program", model: ModelOptions) -> EditTarget:  # noqa: ARG002
        return EditTarget("of")


@dataclass(frozen=True)
class SkipOptions(TargetOptions):
    """Skips, by pattern."""

    skips: Annotated[str | None, typer.Option(help="Skips to edit, by id or path: 'layer2.*' (default: all).")] = None

    def select(self, program: "Program", model: ModelOptions) -> EditTarget:  # noqa: ARG002
        from skiplab.analysis.finder import find

        skips = find(program)
        selected = select(skips, self.skips or "*")
        fused = [skip for skip in selected if skip.location == "fused"]
        if fused:
            rest = ", ".join(skip.id for skip in skips.in_graph()[:5])
            fix = f"choose others with --skips ({rest})" if rest else "write the cell with elementary operators"
            raise UsageError(
                f"skip `{fused[0].id}` is inside the operator `{fused[0].merge}`, which cannot be edited: {fix}"
            )
        return EditTarget(f"at {len(selected)} of {len(skips)} skips of", (selected,), [skip.id for skip in selected])


@dataclass(frozen=True)
class PlaceOptions(TargetOptions):
    """Insertion points: one shortcut around every few layers, or one between two values."""

    every: Annotated[int | None, typer.Option(help="Weight layers that one shortcut goes around (default: 2).")] = None
    placement: Annotated[Placement | None, typer.Option(help="Post-activation or pre-activation (default: post).")] = (
        None
    )
    start_at: Annotated[str | None, typer.Option("--from", help="Op or module whose output the shortcut carries.")] = (
        None
    )
    end_at: Annotated[str | None, typer.Option("--to", help="Op or module to whose output it is added.")] = None

    def __post_init__(self) -> None:
        single, regular = (self.start_at, self.end_at), (self.every, self.placement)
        if any(single) and (not all(single) or any(option is not None for option in regular)):
            raise UsageError("--from and --to are given together, and not with --every or --placement")

    def select(self, program: "Program", model: ModelOptions) -> EditTarget:  # noqa: ARG002
        if self.start_at is not None and self.end_at is not None:
            found = [place(program, self.start_at, self.end_at)]
        else:
            found = places(program, 2 if self.every is None else self.every, self.placement or "post")
        lines = [f"  {_place_text(program, each)}" for each in found[:_MAX_PLACES]]
        if len(found) > _MAX_PLACES:
            lines.append(f"  … ({len(found)} in all)")
        return EditTarget(f"of {plural(len(found), 'shortcut')} into", (found,), lines=tuple(lines))


@dataclass(frozen=True)
class BatchOptions(TargetOptions):
    """Batches of a data set, from its training part if there is one."""

    data: DataName

    def select(self, program: "Program", model: ModelOptions) -> EditTarget:
        from skiplab.data.bound_batches import validate_batches
        from skiplab.data.sources import DataRequest, batches, open_source, training_part

        data_request = DataRequest(self.data, seed=model.seed)
        test = open_source(data_request)
        source = training_part(data_request, test) or test
        loaded = list(batches(program, source, data_request))
        count = sum(batch.size for batch in validate_batches(program, loaded))
        return EditTarget(f"on {plural(count, 'sample')} of {source.name}:", (loaded,))


TARGETS: dict[str, Callable[..., TargetOptions]] = {
    "skips": SkipOptions,
    "places": PlaceOptions,
    "batches": BatchOptions,
}


def target_options(function: Callable[..., Any]) -> Callable[..., TargetOptions]:
    """The target options of an edit, by the name of its parameter."""
    names = inspect.signature(function).parameters
    return next((options for name, options in TARGETS.items() if name in names), NetworkOptions)


def _place_text(program: "Program", at: Place) -> str:
    start, end = (_value_text(program, name) for name in (at.start, at.end))
    return f"{at.path or program.name}: from {start} to {end}"


def _value_text(program: "Program", name: str) -> str:
    """Module path, op and shape of a value: "layer1.0.bn2 (batch_norm) 16x32x32"."""
    op = program.by_name[name]
    shape = format_shape(op.shape[1:], "")
    return f"{op.module} ({op.target}) {shape}" if op.module else f"{name} {shape}"
