"""`skiplab measure`: what a network's skip connections do, on data."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from skiplab.cli.app import Json, Page, app, check_page, print_json, print_lines, say, write_page
from skiplab.cli.common_options import Column, Data, Device, Normalise, columns, notes
from skiplab.cli.model_options import Request, on_a_model
from skiplab.errors import DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from skiplab.cli.kept import Kept
    from skiplab.cli.measures import LesionOptions, Options, Work
    from skiplab.cli.session import Subject
    from skiplab.measure.losses import Function

_DEFAULT = "contribution, clipping, gradient, lesion"
CHOICES = f"{_DEFAULT}, layers, lengths, shattering, similarity, probe, spectrum, linearity, cost"

Tables = dict[str, "pd.DataFrame"]
Functions = tuple["Function", "Function | None"]  # loss and metric


@app.command()
@on_a_model
def measure(
    request: Request,
    data: Data,
    what: Annotated[str | None, typer.Option(help=f"With commas, of {CHOICES}. Default: the first four.")] = None,
    loss: Annotated[str, typer.Option(help="cross-entropy, mse, bce or file.py:callable.")] = "cross-entropy",
    metric: Annotated[
        str | None, typer.Option(help="error, none or file.py:callable (default: error where there are classes).")
    ] = None,
    skips: Annotated[str | None, typer.Option(help="Which skips, by id or path: 'layer2.*' (default: all).")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples a batch.")] = 64,
    samples: Annotated[int, typer.Option(min=0, help="Samples to measure on, drawn at random; 0 for all.")] = 512,
    split: Annotated[str | None, typer.Option(help="Which part of the data, such as train (default: test).")] = None,
    column: Column = None,
    normalise: Normalise = None,
    kind: Annotated[
        str, typer.Option(help="Lesions: branch, mean, noise, shuffle; shortcut, shortcut-mean, …")
    ] = "branch",
    group: Annotated[str, typer.Option(help="Lesions: how many skips at once: 1, 2, …, or pairs.")] = "1",
    reorder: Annotated[int, typer.Option(min=0, help="Lesions: also swap up to so many pairs of like blocks.")] = 0,
    reestimate: Annotated[
        bool, typer.Option("--reestimate", help="Lesions: also with batch norm's statistics measured anew.")
    ] = False,
    method: Annotated[str, typer.Option(help="Lesions: exact, or estimate from gradients.")] = "exact",
    fast: Annotated[bool, typer.Option("--fast", help="Lesions: in a faster form, equal but for rounding.")] = False,
    memory: Annotated[float | None, typer.Option(help="Lesions: GiB for values that are kept.")] = None,
    networks: Annotated[
        str | None,
        typer.Option(help="Gradient, shattering: original, plain, reinitialized, reinitialized plain, with commas."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Keep tables, charts and config there, and go on from it.")] = None,
    device: Device = "auto",
    as_json: Json = False,
    report: Page = None,
) -> None:
    """Measure what the skip connections of a network do, on data."""
    if report is not None:
        check_page(report)
    from skiplab.cli.kept import Kept, config_of
    from skiplab.cli.measures import Options
    from skiplab.cli.session import subject
    from skiplab.data.sources import Asked
    from skiplab.measure.losses import loss_of, metric_of

    names = _names(what)
    lesion = _lesion(kind, group, reorder, reestimate, method, fast, memory)
    chosen = _networks(networks)
    functions = loss_of(loss), metric_of(metric, loss)
    asked = Asked(data, batch, samples, split, normalise, columns(column), request.seed)
    measured = subject(request, asked, device, skips)
    names = _fitting(names, explicit=what is not None, subject_=measured, estimate=lesion.estimate)
    options = {"loss": loss, "metric": metric, "skips": skips, "lesion": lesion.numbers(), "networks": chosen}
    config = config_of(request, asked, measured, options)
    kept = Kept(out, config)
    with notes():
        tables = _measured(names, measured, functions, Options(lesion, chosen), kept)
    _told(request.model, config, tables, as_json)
    _written(request.model, config, tables, report, out)


def _names(what: str | None) -> tuple[str, ...]:
    choices = CHOICES.split(", ")
    if what is None:
        return tuple(_DEFAULT.split(", "))
    names = tuple(dict.fromkeys(name.strip() for name in what.split(",")))
    if wrong := [name for name in names if name not in choices]:
        raise UsageError(f"--what {wrong[0]}: choose of {CHOICES}")
    return names


def _networks(networks: str | None) -> tuple[str, ...]:
    from skiplab.measure.network_variants import NAMES

    names = tuple(dict.fromkeys(each.strip() for each in networks.split(","))) if networks else ()
    if wrong := [name for name in names if name not in NAMES]:
        raise UsageError(f"--networks {wrong[0]}: choose of {', '.join(NAMES)}")
    return names


def _lesion(  # the command's own options, as they are written
    kind: str, group: str, reorder: int, reestimate: bool, method: str, fast: bool, memory: float | None
) -> "LesionOptions":
    from skiplab.cli.measures import LesionOptions
    from skiplab.measure.lesions.replacements import Kind

    if method not in ("exact", "estimate"):
        raise UsageError(f"--method {method}: choose exact or estimate")
    if method == "estimate" and (kind, group, reorder, reestimate, fast) != ("branch", "1", 0, False, False):
        raise UsageError("--method estimate is of branches deleted one at a time: leave out what else lesions take")
    if fast and reestimate:
        raise UsageError("--fast folds away the batch norms that --reestimate is of: leave one of them out")
    if memory is not None and not memory > 0:
        raise UsageError(f"--memory {memory:g}: give GiB, above 0")
    if group != "pairs" and not (group.isdecimal() and int(group) > 0):
        raise UsageError(f"--group {group}: write how many skips at once, such as 2, or pairs")
    kinds = tuple(dict.fromkeys(each.strip() for each in kind.split(",")))
    if wrong := [each for each in kinds if each not in get_args(Kind)]:
        raise UsageError(f"--kind {wrong[0]}: choose of {', '.join(get_args(Kind))}")
    groups: Any = group if group == "pairs" else int(group)
    return LesionOptions(kinds, groups, reorder, reestimate, fast, memory, method == "estimate")


def _fitting(names: Sequence[str], *, explicit: bool, subject_: "Subject", estimate: bool) -> tuple[str, ...]:
    """Those that the data and the graph allow; what was asked for by name and cannot be is an error."""
    from skiplab.cli.measures import MEASURES

    fitting = []
    for name in names:
        if MEASURES[name].targets and subject_.targets is None:
            why = "the data have no targets"
        elif name in ("lesion", "layers") and subject_.program.training:
            why = "the training graph was captured"
        else:
            fitting.append("estimate" if name == "lesion" and estimate else name)
            continue
        if explicit:
            raise UsageError(f"--what {name}: {why}: leave it out, or give others")
        say(f"note: {name} is left out, since {why}")
    if not len(subject_.skips) and not set(fitting) <= {"gradient", "layers"}:
        raise DataError("there is no skip connection to measure: --what gradient,layers measure the weight layers")
    return tuple(fitting)


def _measured(
    names: Sequence[str], subject: "Subject", functions: Functions, options: "Options", kept: "Kept"
) -> Tables:
    """Every table, in the order asked for; those that are finished are loaded."""
    from skiplab.cli.measures import MEASURES, ONE_PASS
    from skiplab.measure.losses import try_on

    if any(MEASURES[name].targets for name in names):
        try_on(subject.program, subject.batches, functions, subject.targets)
    tables: Tables = {name: table for name in names if (table := kept.load(name)) is not None}
    if tables:
        say(f"loaded what is finished: {', '.join(tables)}")
    left = [name for name in names if name not in tables]
    shared = [name for name in left if name in ONE_PASS and not (name == "gradient" and options.networks)]
    groups = [shared] if len(shared) > 1 else []
    groups += [[name] for name in left if not (groups and name in shared)]
    try:
        for group in groups:
            started = time.monotonic()
            with _work(subject, functions, options, kept, group) as work:
                found = _one_pass(work, group) if len(group) > 1 else {group[0]: MEASURES[group[0]].call(work)}
            for name, table in found.items():
                kept.save(name, table)
            tables |= found
            say(f"measured {', '.join(group)} in {time.monotonic() - started:.1f} s")
    except (KeyboardInterrupt, SystemExit):
        done = ", ".join(tables) or "nothing yet"
        say(f"stopped; finished: {done}" + kept.mend())
        raise
    return {name: tables[name] for name in names}


def _one_pass(work: "Work", names: Sequence[str]) -> Tables:
    from skiplab import measure as measures

    return measures.together(work.subject.program, work.subject.skips, work.batches, work.loss, tuple(names))


@contextmanager
def _work(
    subject: "Subject", functions: Functions, options: "Options", kept: "Kept", names: Sequence[str]
) -> Iterator["Work"]:
    """What a measure gets, with a bar on stderr while it works."""
    from skiplab.cli import render
    from skiplab.cli.measures import MEASURES, Work
    from skiplab.data.sources import WithProgress

    with render.bar(", ".join(names)) as progress:
        batches = subject.batches if MEASURES[names[0]].own_progress else WithProgress(subject.batches, progress)
        yield Work(subject, batches, *functions, options, progress, kept.folder(names[0]))


def _told(model: str, config: dict[str, Any], tables: Tables, as_json: bool) -> None:
    from skiplab.cli import render
    from skiplab.cli.measures import MEASURES

    if as_json:
        from skiplab.serialization.json_schema import measure_json

        print_json(measure_json(config, tables, {name: _sentences(name, table) for name, table in tables.items()}))
        return
    for name, table in tables.items():
        shown = MEASURES[name]
        print_lines([f"{name} of {model}"])
        render.stdout().print(render.measured_table(shown.rows(table), shown.shown))
        print_lines([*(f"– {sentence}" for sentence in _sentences(name, table)), ""])


def _sentences(name: str, table: "pd.DataFrame") -> list[str]:
    from skiplab.cli.measures import MEASURES

    return list(MEASURES[name].answer(table))


def _written(model: str, config: dict[str, Any], tables: Tables, report: Path | None, out: Path | None) -> None:
    """The page, and beside the tables every chart."""
    if report is None and out is None:
        return
    from skiplab.report import measure_page

    sentences = [sentence for name, table in tables.items() for sentence in _sentences(name, table)]
    write_page(measure_page(f"What the skip connections of {model} do", sentences, tables, config), report, out)
    if out is not None:
        say(f"wrote tables, charts and config to {out}")
