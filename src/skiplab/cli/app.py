"""The command line application: commands, output streams and exit codes.

stdout is data, stderr is progress and messages. Exit codes: 0 ok, 1 a check found something, 2 usage, 3 model or
export error, 4 data or output error, 130 Ctrl-C, 143 SIGTERM. Nothing heavy is imported before a command runs:
help is instant.
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


def page_name(path: Path | None) -> Path | None:
    """The path of `--report`; UsageError for an ending that is neither HTML nor Markdown."""
    if path is not None and not path.is_dir() and path.suffix not in (".html", ".htm", ".md"):
        raise UsageError(
            f"--report {path}: a page is HTML or Markdown: name it {path.stem}.html or {path.stem}.md (for PDF, print "
            "the HTML from a browser)"
        )
    return path


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Page = Annotated[
    Path | None,
    typer.Option(
        "--report",
        callback=page_name,
        help="Path of a page to write: self-contained HTML, or Markdown with the ending .md.",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    """Options before the command. `--debug` may be anywhere and is read by `main`."""


def check_page(path: Path) -> None:
    """Raises before the work for a path of `--report` that cannot be written."""
    from skiplab.io.atomic import writable_folder

    if path.is_dir():
        raise OutputError(f"--report {path} is a folder: name a file in it, such as {path / 'page.html'}")
    writable_folder(path.parent)


def write_page(page: "report.Page", to: Path | None, charts: Path | None) -> None:
    """Writes the page, as HTML or (ending .md) as Markdown with a folder of charts next to it.

    charts: a folder that gets each chart as PNG and SVG.
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
    typer.echo(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False))


def print_lines(lines: list[str]) -> None:
    from skiplab.cli import render

    console = render.stdout()
    for line in lines:
        console.print(line, markup=False)


def print_message(text: str) -> None:
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
        print_message(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:  # such as `skiplab find … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        print_message(f"error: {type(error).__name__}: {error}; this is a bug of Skiplab: --debug shows where")
        sys.exit(1)
    sys.exit(0)
