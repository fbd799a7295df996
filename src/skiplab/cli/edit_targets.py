"""What an edit is applied to: skips, places for new ones, data, or the network as it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from skiplab.analysis.skips import Skips
from skiplab.cli.edits import VERBS
from skiplab.cli.model_options import Request
from skiplab.errors import UsageError, format_shape
from skiplab.stats.wording import plural

if TYPE_CHECKING:
    from skiplab.edit import Place
    from skiplab.graph.program import Program

_SHOWN = 6  # places


@dataclass(frozen=True)
class Target:
    """What the edit's function is given beside the program, and how that is told: "EDIT {heading} MODEL"."""

    heading: str
    arguments: tuple[Any, ...] = ()
    skips: Skips = field(default_factory=lambda: Skips([]))
    lines: tuple[str, ...] = ()


def target_of(edit: str, program: "Program", given: Mapping[str, Any], pattern: str | None, request: Request) -> Target:
    """By what the edit is of; UsageError where there is nothing of that kind."""
    match VERBS[edit].of:
        case "skips":
            return _skips(program, pattern)
        case "places":
            return _places(program, given)
        case "batches":
            return _data(program, given["data"], request)
        case _:
            return Target("of")


def _skips(program: "Program", pattern: str | None) -> Target:
    from skiplab.analysis.finder import find

    skips = find(program)
    selected = skips if pattern is None else skips.at(pattern)
    if not len(selected):
        some = ", ".join(skip.id for skip in skips[:5]) or "none"
        which = "selects none" if pattern is not None else "there is none"
        raise UsageError(f"--skips {pattern or '*'}: {which} of {len(skips)} skips ({some}): see skiplab find")
    inside = [skip for skip in selected if skip.steps is not None]
    if inside:
        rest = ", ".join(skip.id for skip in skips.in_graph()[:5])
        mend = f"choose others with --skips ({rest})" if rest else "write the cell in plain operators"
        raise UsageError(
            f"skip `{inside[0].id}` is a cell state inside the operator `{inside[0].merge}`, where nothing can be "
            f"changed: {mend}"
        )
    return Target(f"at {len(selected)} of {len(skips)} skips of", (selected,), selected)


def _places(program: "Program", given: Mapping[str, Any]) -> Target:
    from skiplab.edit import place, places

    if "start_at" in given:
        found = [place(program, given["start_at"], given["end_at"])]
    else:
        found = places(program, given.get("every", 2), given.get("placement", "post"))
    lines = [f"  {_told(program, each)}" for each in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"  … ({len(found)} in all)")
    return Target(f"of {plural(len(found), 'shortcut')} into", (found,), lines=tuple(lines))


def _told(program: "Program", place: "Place") -> str:
    start, end = (_where(program, name) for name in (place.start, place.end))
    return f"{place.path or program.name}: from {start} to {end}"


def _where(program: "Program", name: str) -> str:
    """The module's path with the op, and the shape: "layer1.0.bn2 (batch_norm) 16x32x32"."""
    op = program.by_name[name]
    shape = format_shape(op.shape[1:], "")
    return f"{op.module} ({op.target}) {shape}" if op.module else f"{name} {shape}"


def _data(program: "Program", data: str, request: Request) -> Target:
    """Of the training part where there is one."""
    from skiplab.data.bound_batches import checked
    from skiplab.data.sources import Asked, batches, opened, to_learn_from

    asked = Asked(data, seed=request.seed)
    judged = opened(asked)
    source = to_learn_from(asked, judged) or judged
    drawn = list(batches(program, source, asked))
    count = sum(given.size for given in checked(program, drawn))
    return Target(f"on {plural(count, 'sample')} of {source.name}:", (drawn,))
