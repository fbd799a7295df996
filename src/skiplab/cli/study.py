"""`skiplab study`: controlled comparisons, one a question."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skiplab.cli.app import Json, app, check_page, print_json, print_lines, say, write_page
from skiplab.cli.options import Device
from skiplab.errors import UsageError

if TYPE_CHECKING:
    from skiplab.study.depth import Grid
    from skiplab.study.result import Result

study_app = typer.Typer(help="Controlled comparisons, one a question.", no_args_is_help=True)
app.add_typer(study_app, name="study")


@study_app.command("list")
def study_list(as_json: Json = False) -> None:
    """Name every study and the question that it answers."""
    from importlib import import_module

    from skiplab import study

    questions = {name: import_module(f"skiplab.study.{name}").QUESTION for name in study.NAMES}
    if as_json:
        print_json({"schema": "skiplab.studies/1", "studies": questions})
    else:
        for name, question in questions.items():
            typer.echo(f"{name}: {question}")


@study_app.command("depth")
def study_depth(
    quick: Annotated[bool, typer.Option("--quick", help="Two depths, 6 epochs: under a minute on two cores.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Five depths up to 110, 5 seeds, 40 epochs: hours.")] = False,
    depths: Annotated[str | None, typer.Option(help="Depths in weight layers, such as 8,20,50.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of training.")] = None,
    report: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("skiplab-depth.html"),
    out: Annotated[Path | None, typer.Option(help="Keep every table, chart and the config in this folder.")] = None,
    runs: Annotated[Path | None, typer.Option(help="Where finished runs are kept (default: a cache folder).")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Networks trained at once (default: one a core).")] = None,
    device: Device = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Train again what has finished.")] = False,
    as_json: Json = False,
) -> None:
    """Does a deep network train without skip connections, and why does it with them?"""
    from skiplab import terminal
    from skiplab.files import writable_folder
    from skiplab.study import depth, grid
    from skiplab.study.progress import Bars

    chosen = _depth_grid(quick, full, depths, seeds, epochs, device)
    check_page(report)
    if out is not None:
        writable_folder(out)
    store = writable_folder(runs or _runs_folder())
    try:
        with Bars(terminal.stderr()) as bars:
            result = depth.run(chosen, store, workers or grid.available_workers(), bars, fresh=fresh)
    except (KeyboardInterrupt, SystemExit):
        say("stopped; the same command goes on from here")
        raise
    _write_study_page(result, report, out)
    if as_json:
        print_json(result.to_json())
    else:
        console = terminal.stdout()
        console.print(terminal.summary_table(result.tables["summary"]))
        print_lines(["", *(f"– {sentence}" for sentence in result.verdicts)])


def _depth_grid(
    quick: bool, full: bool, depths: str | None, seeds: int | None, epochs: int | None, device: str
) -> "Grid":
    from skiplab.study import depth

    if quick and full:
        raise UsageError("--quick and --full exclude each other")
    chosen = depth.QUICK if quick else depth.FULL if full else depth.Grid()
    if depths is not None:
        try:
            chosen = replace(chosen, depths=tuple(int(each) for each in depths.split(",")))
        except ValueError:
            raise UsageError(f"--depths {depths}: write numbers with commas, such as 8,20,50") from None
    if seeds is not None:
        chosen = replace(chosen, seeds=seeds)
    if epochs is not None:
        chosen = replace(chosen, recipe=replace(chosen.recipe, epochs=epochs))
    return replace(chosen, device=device)


def _runs_folder() -> Path:
    """Finished runs outlive the folder in which they were asked for, as a cache does."""
    base = os.environ.get("SKIPLAB_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "skiplab" / "runs"


def _write_study_page(result: "Result", path: Path, out: Path | None) -> None:
    """The page, and in the folder that was asked for every table and chart and the config."""
    from skiplab.report import study_page

    facts = {"config": dict(result.config), "versions": dict(result.versions)}
    page = study_page(result.question, result.verdicts, result.tables, facts)
    write_page(page, path, None)
    if out is not None:
        result.save(out)
        write_page(page, None, out)
        say(f"wrote tables, charts and config to {out}")
