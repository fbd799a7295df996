"""`skiplab measure`: measure the skip connections of a network on data."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skiplab.cli.app import Json, Page, app, print_json, print_lines, print_message, write_page
from skiplab.cli.common_options import DataOptions, Device, EvaluationOptions, warnings_on_stderr
from skiplab.cli.model_options import ModelOptions
from skiplab.cli.option_groups import with_options
from skiplab.errors import DataError, UsageError
from skiplab.measure.choices import KINDS, NETWORKS, Method
from skiplab.measure.registry import NAMES

if TYPE_CHECKING:
    import pandas as pd

    from skiplab.cli.session import MeasuredProgram
    from skiplab.io.resume import ResumeStore
    from skiplab.measure.losses import Function
    from skiplab.measure.protocol import Measure

Tables = dict[str, "pd.DataFrame"]
Functions = tuple["Function", "Function | None"]  # loss and metric
_DEFAULTS = {"kinds": ("branch",), "groups": 1, "reorder": 0, "reestimate": False, "fast": False, "networks": ()}


@dataclass(frozen=True)
class LesionOptions:
    """Options of the measure `lesion`."""

    kind: Annotated[str, typer.Option(help=f"Comma-separated kinds of lesion: {', '.join(KINDS)}.")] = "branch"
    group: Annotated[str, typer.Option(help="Number of skips at once: 1, 2, …, or pairs.")] = "1"
    reorder: Annotated[int, typer.Option(min=0, help="Number of pairs of equal blocks to swap as well.")] = 0
    reestimate: Annotated[bool, typer.Option("--reestimate", help="Also with re-estimated batch norm statistics.")] = (
        False
    )
    method: Annotated[Method, typer.Option(help="Exact, or estimated from gradients.")] = "exact"
    fast: Annotated[bool, typer.Option("--fast", help="Run an equivalent faster form; results differ by rounding.")] = (
        False
    )
    memory: Annotated[float | None, typer.Option(help="Memory for activations, in GiB.")] = None

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `skiplab.measure.lesion`."""
        lesion = {"kinds": _split(self.kind), "groups": _groups(self.group), "reorder": self.reorder}
        return lesion | {"reestimate": self.reestimate, "fast": self.fast}


@app.command()
@with_options(leave_out=("data_seed",), defaults={"samples": 512}, lesion="Lesions", evaluation="Evaluation")
def measure(
    model: ModelOptions,
    data: DataOptions,
    evaluation: EvaluationOptions,
    lesion: LesionOptions,
    what: Annotated[
        str | None, typer.Option(help=f"Measures, comma-separated: {', '.join(NAMES)}. Default: the first four.")
    ] = None,
    skips: Annotated[str | None, typer.Option(help="Skips to measure, by id or path: 'layer2.*'.")] = None,
    networks: Annotated[
        str | None,
        typer.Option(
            help=f"Networks to measure, comma-separated: {', '.join(NETWORKS)}.",
            rich_help_panel="Gradient and shattering",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for tables, charts and config; the same command resumes from it.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
    report: Page = None,
) -> None:
    """Measure what the skip connections of a network do, on data."""
    from skiplab.cli.output_folder import measurement_identity
    from skiplab.cli.session import prepare
    from skiplab.io.resume import TABLES, ResumeStore

    options = {**lesion.arguments(), "networks": _split(networks)}
    changed = {name: value for name, value in options.items() if value != _DEFAULTS[name]}
    _check_options({**changed, "memory": lesion.memory})
    measures = _select_measures(what, lesion.method, changed)
    functions = evaluation.functions()
    data_request = data.request(evaluation.batch_size, model.seed)
    measured = prepare(model, data_request, device, skips)
    measures = _applicable(measures, explicit=what is not None, measured=measured)
    config = {
        "loss": evaluation.loss,
        "metric": evaluation.metric,
        "skips": skips,
        "lesion": {**lesion.arguments(), "estimate": lesion.method == "estimate"},
        "networks": options["networks"],
    }
    config = measurement_identity(model, data_request, measured, config)
    store = ResumeStore(out, config, TABLES)
    with warnings_on_stderr():
        tables = _measure(list(measures), measured, functions, changed, lesion.memory, store)
    parts = {measure: tables[name] for name, measure in measures.items()}
    _print(model.spec, config, parts, as_json)
    _write(model.spec, config, parts, report, out)


def _split(text: str | None) -> tuple[str, ...]:
    """The distinct values of a comma-separated option."""
    return tuple(dict.fromkeys(value.strip() for value in text.split(","))) if text else ()


def _groups(group: str) -> Any:
    if group != "pairs" and not (group.isdecimal() and int(group) > 0):
        raise UsageError(f"--group {group}: write a number of skips, such as 2, or pairs")
    return group if group == "pairs" else int(group)


def _check_options(options: Mapping[str, Any]) -> None:
    """Raises UsageError for a wrong value, whichever measures run."""
    from skiplab.measure.registry import load_all

    for measure in load_all().values():
        measure.check(options)


def _select_measures(what: str | None, method: str, options: Mapping[str, Any]) -> "dict[str, Measure]":
    """The measures of `--what` by name, replaced by those of `--method`; raises UsageError for wrong options."""
    from skiplab.measure.registry import load, load_all

    names = [name for name, measure in load_all().items() if measure.default] if what is None else _split(what)
    if wrong := [name for name in names if name not in NAMES]:
        raise UsageError(f"--what {wrong[0]}: choose from {', '.join(NAMES)}")
    measures = {}
    for measure in map(load, names):
        selected = load(measure.methods.get(method, measure.name))
        if unused := measure.own_options(options).keys() - selected.options:
            raise UsageError(f"--method {method} takes no {' or '.join(sorted(unused))}: leave it out")
        measures[selected.name] = selected
    return measures


def _applicable(
    measures: "Mapping[str, Measure]", *, explicit: bool, measured: "MeasuredProgram"
) -> "dict[str, Measure]":
    """The measures that the data and the graph allow; raises UsageError if `--what` names another one."""
    applicable = {}
    for name, measure in measures.items():
        if measure.needs_targets and measured.targets is None:
            reason = "the data have no targets"
        elif measure.needs_inference_graph and measured.program.training:
            reason = "the training graph was captured"
        else:
            applicable[name] = measure
            continue
        if explicit:
            raise UsageError(f"--what {name} is not possible, since {reason}: choose another measure")
        print_message(f"note: {name} is left out, since {reason}")
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


def _write(
    model: str,
    config: dict[str, Any],
    parts: "Mapping[Measure, pd.DataFrame]",
    report: Path | None,
    out: Path | None,
) -> None:
    """Writes the page, and all charts to the folder of tables."""
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
