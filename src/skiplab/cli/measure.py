"""`skiplab measure`: measure the skip connections of a network on data."""

import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from skiplab.cli.app import Json, Page, print_json, print_lines, print_message, write_page
from skiplab.cli.common_options import DataOptions, Device, EvaluationOptions, warnings_on_stderr
from skiplab.cli.deferred import deferred, single_command
from skiplab.cli.model_options import ModelOptions
from skiplab.cli.option_groups import flag, with_options
from skiplab.errors import DataError, UsageError
from skiplab.measure.registry import NAMES

if TYPE_CHECKING:
    import pandas as pd

    from skiplab.cli.session import MeasuredProgram
    from skiplab.io.resume import ResumeStore
    from skiplab.measure.losses import Function
    from skiplab.measure.protocol import Measure

_SUMMARY = "Measure what the skip connections of a network do, on data."
Tables = dict[str, "pd.DataFrame"]
Functions = tuple["Function", "Function | None"]  # loss and metric


@dataclass(frozen=True)
class SelectionOptions:
    """Which measures of which skips."""

    what: Annotated[
        str | None, typer.Option(help=f"Measures, comma-separated: {', '.join(NAMES)}. Default: the first four.")
    ] = None
    method: Annotated[
        Literal["exact", "estimate"], typer.Option(help="Exact lesions, or estimates from gradients.")
    ] = "exact"
    skips: Annotated[str | None, typer.Option(help="Skips to measure, by id or path: 'layer2.*'.")] = None
    memory: Annotated[float | None, typer.Option(help="Memory for activations, in GiB.")] = None


@dataclass(frozen=True)
class OutputOptions:
    """Outputs."""

    out: Annotated[
        Path | None, typer.Option(help="Folder for tables, charts and config; the same command resumes from it.")
    ] = None
    as_json: Json = False
    report: Page = None


@deferred("measure", _SUMMARY)
def measure_command() -> Any:
    """The command, with the options of all measures."""

    @with_options(
        leave_out=("data_seed",), defaults={"samples": 512}, keywords=_measure_options(), selection="Measures"
    )
    def measure(
        model: ModelOptions,
        data: DataOptions,
        evaluation: EvaluationOptions,
        selection: SelectionOptions,
        output: OutputOptions,
        device: Device = "auto",
        **options: Any,
    ) -> None:
        from skiplab.cli.output_folder import measurement_identity
        from skiplab.cli.session import prepare
        from skiplab.io.resume import TABLES, ResumeStore

        options = {name: value for name, value in options.items() if value is not None and value is not False}
        measures = _select_measures(selection, options)
        functions = evaluation.functions()
        data_request = data.request(evaluation.batch_size, model.seed)
        measured = prepare(model, data_request, device, selection.skips)
        measures = _applicable(measures, explicit=selection.what is not None, measured=measured)
        settings = {"loss": evaluation.loss, "metric": evaluation.metric, "skips": selection.skips}
        settings |= {"method": selection.method, **options}
        config = measurement_identity(model, data_request, measured, settings)
        store = ResumeStore(output.out, config, TABLES)
        with warnings_on_stderr():
            tables = _measure(list(measures), measured, functions, options, selection.memory, store)
        parts = {measure: tables[name] for name, measure in measures.items()}
        _print(model.spec, config, parts, output.as_json)
        _write(model.spec, config, parts, output)

    return single_command("measure", measure, _SUMMARY)


def _measure_options() -> list[inspect.Parameter]:
    """The options of all measures; one that several measures take is a single option for all."""
    from skiplab.cli.function_options import function_options
    from skiplab.measure.registry import options_by_measures

    found = []
    for measures, names in options_by_measures().items():
        panel = f"Options of {', '.join(measure.name for measure in measures)}"
        found += function_options(measures[0].function, names, panel, defaults=False)
    return found


def _split(text: str) -> tuple[str, ...]:
    """The distinct values of a comma-separated option."""
    return tuple(dict.fromkeys(value.strip() for value in text.split(",")))


def _select_measures(selection: SelectionOptions, options: Mapping[str, Any]) -> "dict[str, Measure]":
    """The measures of `--what` by name, replaced by those of `--method`; raises UsageError for wrong options."""
    from skiplab.measure.registry import load, load_all

    known = load_all()
    for measure in known.values():
        measure.check({**options, "memory": selection.memory})
    default = [name for name, measure in known.items() if measure.default]
    names = default if selection.what is None else _split(selection.what)
    if wrong := [name for name in names if name not in NAMES]:
        raise UsageError(f"--what {wrong[0]}: choose from {', '.join(NAMES)}")
    selected = {name: load(name) for name in (known[each].methods.get(selection.method, each) for each in names)}
    for option in options:
        if not any(option in measure.options for measure in selected.values()):
            takers = ", ".join(name for name, measure in known.items() if option in measure.options)
            raise UsageError(f"{flag(option)} is an option of {takers}; measured: {', '.join(selected)}: leave it out")
    return selected


def _applicable(
    measures: "Mapping[str, Measure]", *, explicit: bool, measured: "MeasuredProgram"
) -> "dict[str, Measure]":
    """The measures that the data and the graph allow; raises UsageError if `--what` names another one."""
    applicable = {}
    for name, measure in measures.items():
        obstacle = measure.obstacle(measured.program, has_targets=measured.targets is not None)
        if obstacle is None:
            applicable[name] = measure
        elif explicit:
            raise UsageError(f"--what {name} is not possible, since {obstacle}: choose another measure")
        else:
            print_message(f"note: {name} is left out, since {obstacle}")
    if not len(measured.skips) and any(measure.needs_skips for measure in applicable.values()):
        from skiplab.measure.registry import load_all

        others = ",".join(name for name, measure in load_all().items() if not measure.needs_skips)
        raise DataError(f"there are no skips to measure: measure weight layers with --what {others}")
    return applicable


def _measure(
    names: Sequence[str],
    measured: "MeasuredProgram",
    functions: Functions,
    options: Mapping[str, Any],
    memory: float | None,
    store: "ResumeStore",
) -> Tables:
    """The tables by name; finished ones are loaded from `store`, new ones saved in it."""
    from skiplab.cli.output_folder import resume_hint
    from skiplab.measure.losses import try_on
    from skiplab.measure.one_pass import group_by_pass
    from skiplab.measure.registry import load

    if any(load(name).needs_targets for name in names):
        try_on(measured.program, measured.batches, functions, measured.targets)
    tables: Tables = {name: table for name in names if (table := store.load_table(name)) is not None}
    if tables:
        print_message(f"loaded finished tables: {', '.join(tables)}")
    try:
        for group in group_by_pass([name for name in names if name not in tables], options):
            started = time.monotonic()
            new = _run(group, measured, functions, options, {"memory": memory, "folder": store.parts_folder(group[0])})
            for name, table in new.items():
                store.save_table(name, table)
            tables |= new
            print_message(f"measured {', '.join(group)} in {time.monotonic() - started:.1f} s")
    except (KeyboardInterrupt, SystemExit):
        done = ", ".join(tables) or "none"
        print_message(f"stopped; finished: {done}; {resume_hint(store.folder)}")
        raise
    return {name: tables[name] for name in names}


def _run(
    group: Sequence[str],
    measured: "MeasuredProgram",
    functions: Functions,
    options: Mapping[str, Any],
    resources: Mapping[str, Any],
) -> "Mapping[str, pd.DataFrame]":
    """The tables of measures that share a pass, with a progress bar on stderr."""
    from skiplab.cli import console
    from skiplab.data.sources import WithProgress
    from skiplab.measure.one_pass import run_group
    from skiplab.measure.protocol import MeasureInputs
    from skiplab.measure.registry import load

    with console.progress_bar(", ".join(group)) as progress:
        batches = measured.batches if load(group[0]).reports_progress else WithProgress(measured.batches, progress)
        inputs = MeasureInputs(
            program=measured.program,
            skips=measured.skips,
            batches=batches,
            loss=functions[0],
            metric=functions[1],
            options=options,
            running={**resources, "progress": progress},
        )
        return run_group(group, inputs)


def _print(model: str, config: dict[str, Any], parts: "Mapping[Measure, pd.DataFrame]", as_json: bool) -> None:
    from skiplab.cli import console, terminal_tables

    sentences = {measure.name: list(measure.sentences(table)) for measure, table in parts.items()}
    if as_json:
        from skiplab.serialization.json_schema import measure_json

        print_json(measure_json(config, {measure.name: table for measure, table in parts.items()}, sentences))
        return
    for measure, table in parts.items():
        print_lines([f"{measure.name} of {model}"])
        console.stdout().print(terminal_tables.measured_table(measure.rows(table), measure.shown))
        print_lines([*(f"– {sentence}" for sentence in sentences[measure.name]), ""])


def _write(model: str, config: dict[str, Any], parts: "Mapping[Measure, pd.DataFrame]", output: OutputOptions) -> None:
    """Writes the page, and all charts to the folder of tables."""
    report, out = output.report, output.out
    if report is None and out is None:
        return
    from skiplab.report.pages.measure import MeasureSection, measure_page

    sentences = [sentence for measure, table in parts.items() for sentence in measure.sentences(table)]
    sections = [
        MeasureSection(name=m.name, heading=m.title, reading=m.reading, chart=m.chart, table=table)
        for m, table in parts.items()
    ]
    write_page(measure_page(f"The skip connections of {model}, measured", sentences, sections, config), report, out)
    if out is not None:
        print_message(f"wrote tables, charts and config to {out}")
