"""The command line. stdout is data, stderr is progress and messages; see `skiplab --help`.

Exit codes: 0 ok, 1 a check found something, 2 usage, 3 model or export error, 4 data or output error, 130 Ctrl-C,
143 SIGTERM. Nothing heavy is imported before a command runs: help is instant.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from skiplab import __version__
from skiplab.errors import OutputError, SelectionError, SkiplabError, UsageError

if TYPE_CHECKING:
    from skiplab.study.depth import Grid
    from skiplab.study.result import Result

app = typer.Typer(
    name="skiplab",
    help="Find, measure, change, train and explain the skip connections of PyTorch networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
study_app = typer.Typer(help="Controlled comparisons, one a question.", no_args_is_help=True)
app.add_typer(study_app, name="study")

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="resnet50, file.py:callable, package.module:callable, timm:NAME, torchvision:NAME, "
        "transformers:TYPE_OR_PATH or file.pt2.",
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="Shape of an input, 1x3x224x224; with a dtype, 1x16:int64. Once an argument."),
]
Kwargs = Annotated[str, typer.Option(help="Keyword arguments for the callable, as JSON.")]
Weights = Annotated[Path | None, typer.Option(help="Weights: safetensors, or a pickled state dict.")]
Train = Annotated[bool, typer.Option("--train", help="Capture the training graph.")]
Trust = Annotated[bool, typer.Option("--trust", help="Read a .pt2 file, which can run code of its maker.")]
Seed = Annotated[int, typer.Option(help="Seed of the initial weights.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Page = Annotated[Path | None, typer.Option("--report", help="Write a self-contained HTML page there.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    """Options that stand before the command; `--debug` may stand anywhere and is read by `main`."""


@app.command()
def find(
    model: Model,
    inputs: Inputs = None,
    kwargs: Kwargs = "{}",
    weights: Weights = None,
    train: Train = False,
    trust: Trust = False,
    seed: Seed = 0,
    expect: Annotated[int | None, typer.Option(help="Exit with 1 unless there are this many skips.")] = None,
    as_json: Json = False,
    report: Page = None,
) -> None:
    """List every skip connection of a network, and count its paths."""
    if report is not None:
        _check_page(report)
    found = _Found(model, inputs, kwargs, weights, train=train, trust=trust, seed=seed)
    if as_json:
        from skiplab.schema import find_json

        _print_json(find_json(model, found.program, found.skips, found.census))
    else:
        from skiplab import terminal

        console = terminal.stdout()
        if len(found.skips):
            console.print(terminal.skips_table(found.skips, console.width))
        console.print(terminal.skips_line(found.skips))
        _print_lines(terminal.census_lines(found.census))
    if report is not None:
        _write_model_page(found, report)
    if expect is not None and expect != len(found.skips):
        raise SelectionError(f"{model}: expected {expect} skips, found {len(found.skips)}")


@app.command()
def census(
    model: Model,
    inputs: Inputs = None,
    kwargs: Kwargs = "{}",
    weights: Weights = None,
    train: Train = False,
    trust: Trust = False,
    seed: Seed = 0,
    count_norms: Annotated[bool, typer.Option("--count-norms", help="LayerNorm and its kin are nonlinear.")] = False,
    as_json: Json = False,
    report: Page = None,
) -> None:
    """Count a network's paths from input to output by what lies on them."""
    if report is not None:
        _check_page(report)
    found = _Found(model, inputs, kwargs, weights, train=train, trust=trust, seed=seed, count_norms=count_norms)
    if as_json:
        from skiplab.schema import census_json

        _print_json(census_json(model, found.census))
    else:
        from skiplab import terminal

        _print_lines(terminal.census_lines(found.census))
        terminal.stdout().print(terminal.witness_table(found.census))
    if report is not None:
        _write_model_page(found, report)


@study_app.command("list")
def study_list(as_json: Json = False) -> None:
    """Name every study and the question that it answers."""
    from importlib import import_module

    from skiplab import study

    questions = {name: import_module(f"skiplab.study.{name}").QUESTION for name in study.NAMES}
    if as_json:
        _print_json({"schema": "skiplab.studies/1", "studies": questions})
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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Train again what has finished.")] = False,
    as_json: Json = False,
) -> None:
    """Does a deep network train without skip connections, and why does it with them?"""
    from skiplab import terminal
    from skiplab.files import writable_folder
    from skiplab.study import depth, grid
    from skiplab.study.progress import Bars

    chosen = _depth_grid(quick, full, depths, seeds, epochs, device)
    _check_page(report)
    if out is not None:
        writable_folder(out)
    store = writable_folder(runs or _runs_folder())
    try:
        with Bars(terminal.stderr()) as bars:
            result = depth.run(chosen, store, workers or grid.available_workers(), bars, fresh=fresh)
    except (KeyboardInterrupt, SystemExit):
        _say("stopped; the same command goes on from here")
        raise
    _write_study_page(result, report, out)
    if as_json:
        _print_json(result.to_json())
    else:
        console = terminal.stdout()
        console.print(terminal.summary_table(result.tables["summary"]))
        _print_lines(["", *(f"– {sentence}" for sentence in result.verdicts)])


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


def _check_page(path: Path) -> None:
    """Before the work rather than after it."""
    from skiplab.files import writable_folder

    if path.is_dir():
        raise OutputError(f"--report {path} is a folder: name a file in it, such as {path / 'page.html'}")
    writable_folder(path.parent)


def _runs_folder() -> Path:
    """Finished runs outlive the folder in which they were asked for, as a cache does."""
    base = os.environ.get("SKIPLAB_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "skiplab" / "runs"


_TOLERANCE = 1e-3  # of an output; kernels in another order round differently


class _Found:
    """A model as the user named it, captured, with its skips and census."""

    def __init__(
        self,
        model: str,
        inputs: list[str] | None,
        kwargs: str,
        weights: Path | None,
        *,
        train: bool,
        trust: bool,
        seed: int,
        count_norms: bool = False,
    ) -> None:
        options = _options(kwargs)
        import torch

        from skiplab.export import capture
        from skiplab.finder import find
        from skiplab.paths import COUNTED, NONLINEAR, census
        from skiplab.resolve import quiet, resolve

        torch.manual_seed(seed)
        resolved = resolve(model, inputs or (), options, weights, trust)
        self.model = model
        with quiet():
            self.program = capture(resolved.model, resolved.args, resolved.kwargs, train=train)
        self.skips = find(self.program)
        self.census = census(self.program, count=COUNTED if count_norms else NONLINEAR)
        if self.program.unfollowed:
            names = ", ".join(self.program.unfollowed[:3])
            _say(f"note: in-place writes that could not be followed, so skips through them may be missed: {names}")
        if not self.program.difference <= _TOLERANCE:
            _say(
                f"note: the captured graph's output differs from the model's by {self.program.difference:.2g} "
                "(nan: they could not be compared), so it may not be the same network"
            )


def _options(kwargs: str) -> dict[str, Any]:
    try:
        options = json.loads(kwargs)
    except json.JSONDecodeError as error:
        raise UsageError(f"--kwargs {kwargs}: no JSON ({error}); write '{{\"num_classes\": 10}}'") from None
    if not isinstance(options, dict):
        raise UsageError(f"--kwargs {kwargs}: write a JSON object, '{{\"num_classes\": 10}}'")
    return options


def _write_model_page(found: _Found, path: Path) -> None:
    from skiplab import outline, terminal
    from skiplab.files import write_text
    from skiplab.report import model_page
    from skiplab.schema import find_json

    tables = {
        "spine": outline.spine(found.program, found.skips),
        "skips": outline.placed(found.program, found.skips),
        "histogram": outline.histogram(found.census),
        "witness": outline.witness(found.census),
    }
    sentences = [terminal.skips_line(found.skips), *terminal.census_lines(found.census)]
    facts = find_json(found.model, found.program, found.skips, found.census)["capture"]
    write_text(path, model_page(found.model, sentences, tables, facts).html())
    _say(f"wrote {path}")


def _write_study_page(result: "Result", path: Path, out: Path | None) -> None:
    """The page, and in the folder that was asked for every table and chart and the config."""
    from skiplab.files import write_bytes, write_text
    from skiplab.report import png, study_page, svg

    facts = {"config": dict(result.config), "versions": dict(result.versions)}
    page = study_page(result.question, result.verdicts, result.tables, facts)
    write_text(path, page.html())
    _say(f"wrote {path}")
    if out is not None:
        result.save(out)
        for name, chart in page.charts().items():
            write_bytes(out / f"{name}.png", png(chart))
            write_text(out / f"{name}.svg", svg(chart))
        _say(f"wrote tables, charts and config to {out}")


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False))


def _print_lines(lines: list[str]) -> None:
    from skiplab import terminal

    console = terminal.stdout()
    for line in lines:
        console.print(line, markup=False)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def main() -> NoReturn:
    """Runs the command line; every error that Skiplab raises on purpose is one line on stderr."""
    debug = "--debug" in sys.argv
    arguments = [each for each in sys.argv[1:] if each != "--debug"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app(args=arguments)
    except SkiplabError as error:
        if debug:
            raise
        _say(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:  # such as `skiplab find … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        _say(f"error: {type(error).__name__}: {error}; this is a bug of Skiplab: --debug shows where")
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
