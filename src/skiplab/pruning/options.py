"""The options of `prune`, checked before anything runs. Imports no torch."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from skiplab.errors import UsageError
from skiplab.validation import known_options

if TYPE_CHECKING:
    from skiplab.measure.ggn_probe import Probe

Criterion = Literal["lesion", "influence", "random", "first", "last"]
UnitKind = Literal["block", "module"]

TARGETS = ("keep", "max_change", "latency")


class PruneOptions(TypedDict, total=False):
    """Keyword options of `prune`. The first three are targets: at most one is given; without any, all blocks go."""

    keep: float
    """Largest share of blocks to keep, 0 to 1."""
    max_change: float
    """Largest rise of the metric (of the loss, where there is no metric) on `test`."""
    latency: float
    """Largest ratio of the latency to that of the whole network."""
    by: Criterion
    """What ranks the blocks: "lesion" (default), "influence", "random", or their place, "first" or "last"."""
    greedy: bool
    """Whether blocks are ranked again after each removal (default), or once."""
    unit: UnitKind
    """What is removed together: one "block" (default), or all blocks that end in the `forward` of one "module"."""
    candidates: int
    """Number of blocks, those with the lowest estimates, whose lesion is measured exactly: 6."""
    probe: "Probe | None"
    """What the estimate needs where `loss` is not torch's own; see `skiplab.measure.estimate`."""
    seed: int
    """Seed of the random order and of the bootstrap: 0."""
    progress: Callable[[int, int], None]
    """Called with the number of blocks removed and the number of all blocks."""
    before: Sequence[Mapping[str, Any]]
    """Rows of the frontier from an earlier call, which this call continues: ()."""
    on_row: Callable[[Mapping[str, Any]], None]
    """Called with each new row of the frontier."""


def check_options(options: Mapping[str, Any]) -> None:
    """UsageError for unknown options, two targets, and values out of range."""
    known_options(options, PruneOptions.__annotations__, "prune")
    given = [name for name in TARGETS if name in options]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other: give one target")
    for name in given:
        limit = float("inf") if name == "max_change" else 1.0
        if not 0 <= options[name] < limit:
            raise UsageError(f"{name}={options[name]:g}: give a number from 0 to below {limit:g}")
    for name, choices in (("by", get_args(Criterion)), ("unit", get_args(UnitKind))):
        if options.get(name, choices[0]) not in choices:
            raise UsageError(f"{name}={options.get(name)!r}: choose {', '.join(choices)}")
    if options.get("candidates", 1) < 1:
        raise UsageError(f"candidates={options['candidates']}: give at least 1")
