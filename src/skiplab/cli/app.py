"""The command line application: commands, output streams and exit codes.

stdout is data, stderr is progress and messages. Exit codes: 0 ok, 1 a check found something, 2 usage, 3 model or
export error, 4 data or output error, 130 Ctrl-C, 143 SIGTERM. torch is imported only when a command
runs, so help is instant.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from skiplab import __version__
from skiplab.errors import OutputError, SkiplabError, UsageError

if TYPE_CHECKING:
    from skiplab import report

app = typer.Typer(
    name="skiplab",
    help="Find, measure, change, train and explain the skip connections of PyTorch networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def writable_page(path: Path | None) -> Path | None:
    """The path of `--report`, checked before the work starts.

    Raises:
        UsageError: the suffix is neither that of HTML nor of Markdown.
        OutputError: the path is a folder, or cannot be written.
    """
    if path is None:
        return None
    if path.is_dir():
        raise OutputError(f"--report {path} is a folder: give a file in it, such as {path / 'page.html'}")
    if path.suffix not in (".html", ".htm", ".md"):
        raise UsageError(
            f"--report {path}: pages are HTML or Markdown: give {path.stem}.html or {path.stem}.md (for PDF, print the "
            "HTML page from a browser)"
        )
    from skiplab.io.atomic import writable_folder

    writable_folder(path.parent)
    return path


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Page = Annotated[
    Path | None,
    typer.Option(
        "--report",
        callback=writable_page,
        help="Path of a page to write: self-contained HTML, or Markdown if it ends in .md.",
    ),
]


def _print_version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    """Options before the command. `main` reads `--debug`, which may be anywhere."""


def write_page(page: "report.Page", to: Path | None, charts: Path | None) -> None:
    """Writes a page and its charts.

    Args:
        page: the page.
        to: path of the page, HTML or Markdown (.md, with a folder of charts next to it); None writes no page.
        charts: folder for each chart as PNG and SVG; None writes no charts.
    """
    from skiplab.io.atomic import writable_folder, write_bytes, write_text
    from skiplab.report import markdown, png, svg

    if to is not None and to.suffix == ".md":
        folder = writable_folder(to.with_suffix(""))
        for name, chart in page.charts().items():
            write_text(folder / f"{name}.svg", svg(chart))
        write_text(to, markdown(page, folder.name))
        print_message(f"wrote {to}, and its charts to {folder}")
    elif to is not None:
        write_text(to, page.html())
        print_message(f"wrote {to}")
    if charts is not None:
        for name, chart in page.charts().items():
            write_bytes(charts / f"{name}.png", png(chart))
            write_text(charts / f"{name}.svg", svg(chart))


def print_json(value: dict[str, Any]) -> None:
    """Prints a result as JSON on stdout."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False))


def print_lines(lines: list[str]) -> None:
    """Prints lines of results on stdout."""
    from skiplab.cli import console

    out = console.stdout()
    for line in lines:
        out.print(line, markup=False)


def print_message(text: str) -> None:
    """Prints a message on stderr."""
    typer.echo(text, err=True)


def main() -> NoReturn:
    """Runs the command line. An error of Skiplab is one line on stderr, without a traceback."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app(args=arguments)
    except SkiplabError as error:
        if debug:
            raise
        print_message(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:  # such as `skiplab find … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        print_message(
            f"error: {type(error).__name__}: {error}; this is a bug in Skiplab: run with --debug for a traceback"
        )
        sys.exit(1)
    sys.exit(0)
