"""Output of the command line: results on stdout; progress bars and messages on stderr."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_PIPE_WIDTH = 200  # columns if stdout is a file or a pipe


def stdout() -> Console:
    """The console for results; wider than 80 columns if stdout is no terminal."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, soft_wrap=False)


def stderr() -> Console:
    """The console for progress and messages."""
    return Console(stderr=True, highlight=False)


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """A transient progress bar on stderr; yields a function to call with (done, total)."""
    console = stderr()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class TimedProgress:
    """Transient progress bars with elapsed and remaining time; none without a terminal. Use as a context manager.

    Args:
        console: console to print on.
        columns: columns between a bar and its times.
    """

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            *columns,
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.started = time.monotonic()

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def line(self, text: str) -> None:
        """Prints a permanent line above the bars, with the elapsed seconds."""
        self.console.print(f"[{time.monotonic() - self.started:6.1f} s] {text}", markup=False, highlight=False)
