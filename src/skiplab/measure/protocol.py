"""What every measure provides: one `Measure` record at the end of its file."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from skiplab.analysis.skips import Skips
from skiplab.data.sources import Batches
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.measure.batches import Loss
from skiplab.measure.observers import Observer
from skiplab.measure.table import MeasureTable
from skiplab.stats.columns import Column

SKIP_ID = Column("skip", "id", doc="id of the skip")
ORDER = Column("", "order", doc="index of the merge in the graph, to sort by")
SAMPLES = Column("", "samples", doc="number of samples measured")


@dataclass(frozen=True, kw_only=True)
class MeasureInputs:
    """What a measure runs on when it is called by name.

    Attributes:
        program, skips, batches: as the functions of `skiplab.measure` take them.
        loss, metric: (output, target) -> mean over the batch; no metric is None.
        options: options of measures, by their names in the library; those that a measure does not take are dropped.
        running: options of a long measure that do not change its result: memory, progress, folder.
    """

    program: Program
    skips: Skips
    batches: Batches
    loss: Loss
    metric: Loss | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    running: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Measure:
    """One measure. Its name is that of its function, of its file and of its line in the registry.

    Attributes:
        function: what `skiplab.measure` exports.
        run: calls the function.
        sentences: answers that it computes from a table.
        columns: every column of the table, except `<name>_std`, `<name>_low`, `<name>_high` and `<name>_median`.
        title: heading of its section on a page.
        reading: how to read its chart, in a sentence.
        chart: name of its chart in `skiplab.report.charts.measures`; None shows the table alone.
        rows: which rows the terminal shows.
        options: keyword arguments of the function that can be set by name: on the command line, in `MeasureInputs`.
        check: raises UsageError for options that make no sense, before anything is computed.
        methods: for a value of `--method`, the measure that answers in place of this one.
        observer: its part of a pass shared with other measures, when it has one and no option is set.
        default: whether it is measured when none is named.
        needs_targets: whether batches need targets.
        needs_skips: whether it needs a skip connection.
        needs_inference_graph: whether it refuses a training graph.
        reports_progress: whether it reports progress itself, in place of a count of batches.
    """

    function: Callable[..., pd.DataFrame]
    run: Callable[[MeasureInputs], pd.DataFrame]
    sentences: Callable[[pd.DataFrame], Iterator[str]]
    columns: tuple[Column, ...]
    title: str
    reading: str
    chart: str | None = None
    rows: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table
    options: tuple[str, ...] = ()
    check: Callable[[Mapping[str, Any]], None] = lambda _: None
    methods: Mapping[str, str] = field(default_factory=dict)
    observer: Callable[[Program, Skips], Observer] | None = None
    default: bool = False
    needs_targets: bool = False
    needs_skips: bool = True
    needs_inference_graph: bool = False
    reports_progress: bool = False

    @property
    def name(self) -> str:
        """As in `skiplab.measure` and on the command line."""
        return self.function.__name__

    def obstacle(self, program: Program, *, has_targets: bool) -> str | None:
        """Why it cannot be measured on a program and its data; None if it can."""
        if self.needs_targets and not has_targets:
            return "the data have no targets"
        if self.needs_inference_graph and program.training:
            return "the training graph was captured"
        return None

    @property
    def shown(self) -> tuple[Column, ...]:
        """The columns that the terminal shows."""
        return tuple(column for column in self.columns if column.heading)

    def __call__(self, inputs: MeasureInputs) -> MeasureTable:
        """The result, with those of the options that this measure takes."""
        return self.as_result(self.run(replace(inputs, options=self.own_options(inputs.options))))

    def as_result(self, table: pd.DataFrame) -> MeasureTable:
        """The table as this measure's result."""
        return MeasureTable.of(self.function.__module__, table)

    def own_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those that this measure takes."""
        return {name: value for name, value in options.items() if name in self.options}

    def plot(self, table: pd.DataFrame) -> Any:
        """Its Altair chart of a table; UsageError when it has none."""
        from skiplab.report.charts.measures import measure_chart  # Altair takes a while to import

        if self.chart is None:
            raise UsageError(f"the measure {self.name} has no chart: use `pd.DataFrame(table).plot`")
        return measure_chart(self.chart, table)
