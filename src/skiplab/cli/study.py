"""`skiplab study`: controlled comparisons, one command per question."""

import os
import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skiplab.cli.app import Json, app, print_json, print_lines, print_message, writable_page, write_page
from skiplab.cli.common_options import Device
from skiplab.cli.option_groups import with_options
from skiplab.cli.study_help import StudyCommand
from skiplab.errors import UsageError
from skiplab.study import QUESTIONS

if TYPE_CHECKING:
    from skiplab.study.grid import Listener
    from skiplab.study.question import Grid
    from skiplab.study.result import Result

study_app = typer.Typer(help="Controlled comparisons, one command per question.", no_args_is_help=True)
app.add_typer(study_app, name="study")

PREPARING = "loading torch and building the networks"  # takes some seconds
MAX_ROWS = 500  # per table in the JSON file next to a Markdown page

Fresh = Annotated[bool, typer.Option("--fresh", help="Repeat finished runs.")]


@dataclass(frozen=True)
class Destination:
    """Outputs of a study: page, tables, finished runs."""

    report: Annotated[
        Path | None,
        typer.Option(callback=writable_page, help="Path of the page, .html or .md (default: skiplab-STUDY.html)."),
    ] = None
    out: Annotated[Path | None, typer.Option(help="Write all tables, charts and the config to this folder.")] = None
    runs: Annotated[Path | None, typer.Option(help="Folder of finished runs (default: a cache folder).")] = None
    workers: Annotated[int | None, typer.Option(min=1, help="Networks trained at once (default: one per core).")] = None
    as_json: Json = False


@study_app.command("list")
def study_list(as_json: Json = False) -> None:
    """List the studies and their questions."""
    if as_json:
        print_json({"schema": "skiplab.studies/1", "studies": QUESTIONS})
    else:
        for name, question in QUESTIONS.items():
            typer.echo(f"{name}: {question}")


def _add(name: str, question: str) -> None:
    """Adds the command of one study."""

    @study_app.command(name, cls=StudyCommand, help=question)
    @with_options(destination="Output")
    def run_question(
        context: typer.Context,
        destination: Destination,
        quick: Annotated[bool, typer.Option("--quick", help="At most two minutes on two cores.")] = False,
        full: Annotated[bool, typer.Option("--full", help="More sizes, seeds and epochs.")] = False,
        grid: Annotated[list[str] | None, typer.Option(help="Values of an axis: AXIS=8,20. See below.")] = None,
        variants: Annotated[str | None, typer.Option(help="Comma-separated variants: see below.")] = None,
        seeds: Annotated[int | None, typer.Option(help="Number of seeds.")] = None,
        epochs: Annotated[int | None, typer.Option(help="Epochs of training.")] = None,
        device: Device = "auto",
        fresh: Fresh = False,
    ) -> None:
        if quick and full:
            raise UsageError("--quick and --full exclude each other")
        print_message(PREPARING)
        from skiplab.study.question import load_study
        from skiplab.study.run import run_study

        study = load_study(name)
        chosen = replace(study.grids["quick" if quick else "full" if full else "default"], device=device)
        chosen = _with_overrides(chosen, grid or [], variants, seeds, epochs)
        study.cells(chosen)  # raises for invalid settings before anything is written
        run_and_report(
            reproducing_command(context),
            name,
            lambda store, count, listener: run_study(study, chosen, store, count, listener, fresh=fresh),
            destination,
        )


def reproducing_command(context: typer.Context) -> str:
    """The command line that reproduces the result: all options except those of `Destination` and --fresh."""
    words = ["skiplab", "study", str(context.info_name)]
    for parameter in context.command.params:
        name, source = str(parameter.name), context.get_parameter_source(str(parameter.name))
        if name in (*Destination.__annotations__, "fresh") or source is None or source.name != "COMMANDLINE":
            continue
        value, option = context.params[name], [parameter.opts[0]] if parameter.param_type_name == "option" else []
        if isinstance(value, bool):
            words += option
        else:
            items = value if isinstance(value, list | tuple) else [value]
            words += [word for item in items for word in (*option, str(item))]
    return shlex.join(words)


def run_and_report(command: str, name: str, run: "Callable[[Path, int, Listener], Result]", to: Destination) -> None:
    """Runs a study with progress bars, writes its page and prints its result.

    Args:
        command: the command line that reproduces the result.
        name: name of the study.
        run: runs the study; takes the folder of finished runs, the number of workers, and the progress bars.
        to: outputs.
    """
    from skiplab.cli import console, terminal_tables
    from skiplab.cli.study_progress import StudyBars
    from skiplab.io.atomic import writable_folder
    from skiplab.study import grid

    page = to.report or Path(f"skiplab-{name}.html")
    writable_page(page)
    if to.out is not None:
        writable_folder(to.out)
    store = writable_folder(to.runs or _runs_folder())
    try:
        with _announce_interrupt(), StudyBars(console.stderr()) as bars:
            result = run(store, to.workers or grid.available_workers(), bars)
    except (KeyboardInterrupt, SystemExit):
        print_message("stopped; run the same command to continue")
        raise
    print_message("writing the page")
    _write(result, command, page, to.out)
    if to.as_json:
        print_json(result.to_json())
    else:
        overview = result.overview()
        console.stdout().print(terminal_tables.plain_table(list(map(str, overview)), overview.to_numpy().tolist()))
        print_lines(["", *(f"– {sentence}" for sentence in result.sentences)])
        print_lines(_claims(result))


@contextmanager
def _announce_interrupt() -> Iterator[None]:
    """Prints a message at the first Ctrl-C, since running cells finish their step first."""
    previous = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, previous)
        with suppress(RuntimeError):  # the signal may arrive during another print
            print_message("stopping: finishing the running step")
        signal.default_int_handler(number, frame)

    if previous is signal.default_int_handler:  # not ignored, as in a background job
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is stop:
            signal.signal(signal.SIGINT, previous)


def _with_overrides(
    grid: "Grid", axes_texts: Sequence[str], variants: str | None, seeds: int | None, epochs: int | None
) -> "Grid":
    """The grid with the changes from the command line."""
    axes = dict(grid.axes)
    for text in axes_texts:
        name, sign, values = text.partition("=")
        if not sign or name not in axes:
            if not axes:
                raise UsageError(f"--grid {text}: this study has no axis: leave out --grid")
            choices = " or ".join(f"{axis}=…" for axis in axes)
            raise UsageError(f"--grid {text}: write {choices} with comma-separated values")
        axes[name] = tuple(_parse_value(text, value, axes[name]) for value in values.split(","))
    if variants is not None:
        grid = replace(grid, variants=tuple(name.strip() for name in variants.split(",")))
    if seeds is not None:
        grid = replace(grid, seeds=seeds)
    if epochs is not None:
        grid = replace(grid, recipe=replace(grid.recipe, epochs=epochs))
    return replace(grid, axes=axes)


def _parse_value(text: str, value: str, known: tuple[Any, ...]) -> Any:
    """A value of an axis, with the type of its known values."""
    kind = type(known[0])
    if kind is bool:
        kind = {"true": lambda _: True, "false": lambda _: False}.get(value.strip().lower(), int)
    try:
        return kind(value.strip())
    except ValueError:
        names = {int: "whole numbers", float: "numbers"}
        raise UsageError(f"--grid {text}: write comma-separated {names.get(kind, 'true or false')}") from None


def _runs_folder() -> Path:
    """The default folder of finished runs, in the user's cache folder."""
    base = os.environ.get("SKIPLAB_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "skiplab" / "runs"


def _write(result: "Result", command: str, path: Path, out: Path | None) -> None:
    """Writes the page, and all tables, charts and the config to the folder `out`."""
    from skiplab.io.atomic import write_json
    from skiplab.report import study_page

    facts = {"command": command, "config": dict(result.config), "versions": dict(result.versions)}
    page = study_page(result, facts)
    write_page(page, path, None)
    if path.suffix == ".md":  # Markdown has no data: it is in a file next to the page
        write_json(path.with_suffix("") / "result.json", {"command": command, **result.to_json(MAX_ROWS)})
    if out is not None:
        result.save(out)
        write_page(page, None, out)
        print_message(f"wrote tables, charts and config to {out}")


def _claims(result: "Result") -> list[str]:
    """Claims of papers next to the results here, as lines."""
    rows = result.tables["claims"].to_dict("records")
    lines = [f"{row['claim']} ({row['source']})\n  {row['agrees']}: {row['found']}" for row in rows]
    return ["", "Claims of papers, and the same quantities here:", *lines] if lines else []


for _name, _question in QUESTIONS.items():
    _add(_name, _question)
