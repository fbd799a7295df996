"""Work for the grid's tests, at the top level of a module since it runs in other processes."""

import os
import time
from pathlib import Path
from typing import Any

from skiplab.errors import DataError
from skiplab.study.grid import Report


def note(config: dict[str, Any], folder: Path, report: Report) -> None:
    """Leaves a line for every time that it ran, in steps that can be stopped."""
    with (folder / "ran").open("a") as file:
        file.write(f"{os.getpid()}\n")
    for step in range(config.get("steps", 1)):
        time.sleep(config.get("seconds", 0.0))
        report((step + 1) / config.get("steps", 1), "working")
    (folder / "result").write_text(str(config["value"] ** 2))


def fail(config: dict[str, Any], folder: Path, report: Report) -> None:
    raise DataError(f"cannot do {config['value']}")


def hang(config: dict[str, Any], folder: Path, report: Report) -> None:
    """Works on a cell for longer than any test takes."""
    (folder / "hangs").touch()
    time.sleep(600)
