"""`skiplab measure`: what a network's skip connections do, on data."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skiplab.cli.app import Json, Page, app, check_page, print_json, print_lines, print_message, write_page
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
    """Options of lesions alone."""

    kind: Annotated[str, typer.Option(help=f"What happens to a skip, comma-separated: {', '.join(KINDS)}.")] = "branch"
    group: Annotated[str, typer.Option(help="How many skips at once: 1, 2, …, or pairs.")] = "1"
    reorder: Annotated[int, typer.Option(min=0, help="Also swap up to this many pairs of like blocks.")] = 0
    reestimate: Annotated[bool, typer.Option("--reestimate", help="Also with re-estimated batch norm statistics.")] = (
        False
    )
    method: Annotated[Method, typer.Option(help="Exact, or estimated from gradients.")] = "exact"
    fast: Annotated[bool, typer.Option("--fast", help="In a faster form, equal up to rounding.")] = False
    memory: Annotated[float | None, typer.Option(help="GiB that activations may take.")] = None

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
    if report is not None:
        check_page(report)
    from skiplab.cli.output_folder import measurement_identity
    from skiplab.cli.session import prepare
    from skiplab.io.resume import TABLES, ResumeStore

    options = {**lesion.arguments(), "networks": _split(networks)}
    given = {name: value for name, value in options.items() if value != _DEFAULTS[name]}
    measures = _chosen(what, lesion.method, given)
    functions = evaluation.functions()
    data_request = data.request(evaluation.batch_size, model.seed)
    measured = prepare(model, data_request, device, skips)
    measures = _fitting(measures, explicit=what is not None, subject_=measured)
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
        tables = _measured(list(measures), measured, functions, given, lesion.memory, store)
    parts = {measure: tables[name] for name, measure in measures.items()}
    _print(model.spec, config, parts, as_json)
    _write(model.spec, config, parts, report, out)


def _split(text: str | None) -> tuple[str, ...]:
    """The values of an option that has several, each once."""
    return tuple(dict.fromkeys(each.strip() for each in text.split(","))) if text else ()


def _groups(group: str) -> Any:
    if group != "pairs" and not (group.isdecimal() and int(group) > 0):
        raise UsageError(f"--group {group}: write how many skips at once, such as 2, or pairs")
    return group if group == "pairs" else int(group)


def _chosen(what: str | None, method: str, given: Mapping[str, Any]) -> "dict[str, Measure]":
    """The measures of `--what` by name, as `--method` has them, with their options checked."""
    from skiplab.measure.registry import load, load_all

    names = [name for name, each in load_all().items() if each.default] if what is None else _split(what)
    if wrong := [name for name in names if name not in NAMES]:
        raise UsageError(f"--what {wrong[0]}: choose of {', '.join(NAMES)}")
    measures = {}
    for measure in map(load, names):
        answering = load(measure.methods.get(method, measure.name))
        if unused := measure.own_options(given).keys() - answering.options:
            raise UsageError(f"--method {method} takes no {' or '.join(sorted(unused))}: leave it out")
        answering.check(given)
        measures[answering.name] = answering
    return measures


def _fitting(measures: "Mapping[str, Measure]", *, explicit: bool, subject_: "MeasuredProgram") -> "dict[str, Measure]":
    """The measures that the data and the graph allow; UsageError where a measure named in `--what` is not possible."""
    fitting = {}
    for name, measure in measures.items():
        if measure.needs_targets and subject_.targets is None:
            why = "the data have no targets"
        elif measure.needs_inference_graph and subject_.program.training:
            why = "the training graph was captured"
        else:
            fitting[name] = measure
            continue
        if explicit:
            raise UsageError(f"--what {name}: {why}: leave it out, or give others")
        print_message(f"note: {name} is left out, since {why}")
    if not len(subject_.skips) and any(measure.needs_skips for measure in fitting.values()):
        from skiplab.measure.registry import load_all

        others = ",".join(name for name, measure in load_all().items() if not measure.needs_skips)
        raise DataError(f"there is no skip connection to measure: --what {others} measure the weight layers")
    return fitting


def _measured(
    names: Sequence[str],
    subject: "MeasuredProgram",
    functions: Functions,
    options: Mapping[str, Any],
    memory: float | None,
    store: "ResumeStore",
) -> Tables:
    """Every table, in the order of the names; those that are finished are loaded."""
    from skiplab.cli.output_folder import resume_hint
    from skiplab.measure.losses import try_on
    from skiplab.measure.one_pass import group_by_pass
    from skiplab.measure.registry import load

    if any(load(name).needs_targets for name in names):
        try_on(subject.program, subject.batches, functions, subject.targets)
    tables: Tables = {name: table for name in names if (table := store.load_table(name)) is not None}
    if tables:
        print_message(f"loaded what is finished: {', '.join(tables)}")
    try:
        for group in group_by_pass([name for name in names if name not in tables], options):
            started = time.monotonic()
            found = _run(group, subject, functions, options, {"memory": memory, "folder": store.parts_folder(group[0])})
            for name, table in found.items():
                store.save_table(name, table)
            tables |= found
            print_message(f"measured {', '.join(group)} in {time.monotonic() - started:.1f} s")
    except (KeyboardInterrupt, SystemExit):
        done = ", ".join(tables) or "nothing yet"
        print_message(f"stopped; finished: {done}; {resume_hint(store.folder)}")
        raise
    return {name: tables[name] for name in names}


def _run(
    group: Sequence[str],
    subject: "MeasuredProgram",
    functions: Functions,
    options: Mapping[str, Any],
    running: Mapping[str, Any],
) -> "Mapping[str, pd.DataFrame]":
    """The tables of measures that run at once, with a progress bar on stderr."""
    from skiplab.cli import render
    from skiplab.data.sources import WithProgress
    from skiplab.measure.one_pass import run_group
    from skiplab.measure.protocol import MeasureInputs
    from skiplab.measure.registry import load

    with render.bar(", ".join(group)) as progress:
        batches = subject.batches if load(group[0]).reports_progress else WithProgress(subject.batches, progress)
        inputs = MeasureInputs(
            program=subject.program,
            skips=subject.skips,
            batches=batches,
            loss=functions[0],
            metric=functions[1],
            options=options,
            running={**running, "progress": progress},
        )
        return run_group(group, inputs)


def _print(model: str, config: dict[str, Any], parts: "Mapping[Measure, pd.DataFrame]", as_json: bool) -> None:
    from skiplab.cli import render

    sentences = {measure.name: list(measure.sentences(table)) for measure, table in parts.items()}
    if as_json:
        from skiplab.serialization.json_schema import measure_json

        print_json(measure_json(config, {measure.name: table for measure, table in parts.items()}, sentences))
        return
    for measure, table in parts.items():
        print_lines([f"{measure.name} of {model}"])
        render.stdout().print(render.measured_table(measure.rows(table), measure.shown))
        print_lines([*(f"– {sentence}" for sentence in sentences[measure.name]), ""])


def _write(
    model: str,
    config: dict[str, Any],
    parts: "Mapping[Measure, pd.DataFrame]",
    report: Path | None,
    out: Path | None,
) -> None:
    """The page, and next to the tables every chart."""
    if report is None and out is None:
        return
    from skiplab.report.pages.measure import MeasureSection, measure_page

    sentences = [sentence for measure, table in parts.items() for sentence in measure.sentences(table)]
    sections = [
        MeasureSection(name=m.name, heading=m.title, reading=m.reading, chart=m.chart, table=table)
        for m, table in parts.items()
    ]
    write_page(measure_page(f"What the skip connections of {model} do", sentences, sections, config), report, out)
    if out is not None:
        print_message(f"wrote tables, charts and config to {out}")
