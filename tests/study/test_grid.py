"""The grid runs each cell once, survives being stopped and killed, and passes errors on."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import grid_work
from skiplab.errors import DataError
from skiplab.study.grid import Cell, Silent, run_grid

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # other processes run the same code


def cells(count: int, **config: object) -> list[Cell]:
    return [Cell(f"cell {i}", {"value": i, **config}) for i in range(count)]


def runs(folder: Path) -> int:
    return len((folder / "ran").read_text().splitlines())


def test_results_and_that_nothing_runs_twice(tmp_path: Path) -> None:
    first = run_grid(cells(3), grid_work.note, tmp_path, 2, Silent())
    again = run_grid(cells(4), grid_work.note, tmp_path, 2, Silent())
    assert [(folder / "result").read_text() for folder in again.values()] == ["0", "1", "4", "9"]
    assert [runs(folder) for folder in first.values()] == [1, 1, 1]


def test_fresh_runs_again(tmp_path: Path) -> None:
    run_grid(cells(1), grid_work.note, tmp_path, 1, Silent())
    folders = run_grid(cells(1), grid_work.note, tmp_path, 1, Silent(), fresh=True)
    assert runs(folders["cell 0"]) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_another_config_or_code_is_another_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    key = Cell("a", {"x": 1}).key
    assert key == Cell("b", {"x": 1}).key
    assert key != Cell("a", {"x": 2}).key
    monkeypatch.setattr("skiplab.study.grid.code_hash", lambda study: "other code")
    assert key != Cell("a", {"x": 1}).key


def test_an_error_in_a_worker_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot do 0"):
        run_grid(cells(1), grid_work.fail, tmp_path, 1, Silent())


class Stopper:
    """Ctrl-C after the first cell has finished."""

    def begin(self, cells: Sequence[Cell], finished: Sequence[Cell]) -> None: ...
    def advance(self, cell: Cell, share: float, text: str) -> None: ...
    def finish(self, cell: Cell) -> None:
        raise KeyboardInterrupt


def test_an_interrupt_keeps_what_has_finished(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_grid(cells(3, steps=20, seconds=0.02), grid_work.note, tmp_path, 1, Stopper())
    folders = run_grid(cells(3, steps=20, seconds=0.02), grid_work.note, tmp_path, 2, Silent())
    assert runs(folders["cell 0"]) == 1
    assert [(folder / "result").read_text() for folder in folders.values()] == ["0", "1", "4"]


class Witness:
    """What a listener is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def begin(self, cells: Sequence[Cell], finished: Sequence[Cell]) -> None: ...
    def advance(self, cell: Cell, share: float, text: str) -> None:
        self.told.append(("advance", cell.label))

    def finish(self, cell: Cell) -> None:
        self.told.append(("finish", cell.label))


def test_a_cell_that_has_finished_is_heard_of_no_more(tmp_path: Path) -> None:
    witness = Witness()
    run_grid(cells(2, steps=200), grid_work.note, tmp_path, 1, witness)
    for label in ("cell 0", "cell 1"):
        own = [what for what, of in witness.told if of == label]
        assert own.index("finish") == len(own) - 1


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another command, at work on cell 0 of the same store without end."""
    script = tmp_path / "other.py"
    script.write_text(
        "import sys, pathlib, grid_work\n"
        "from skiplab.study.grid import Cell, Silent, run_grid\n"
        "run_grid([Cell('cell 0', {'value': 0})], grid_work.hang, pathlib.Path(sys.argv[1]), 0, Silent())\n"
    )
    process = subprocess.Popen([sys.executable, script, tmp_path / "store"], env=ENVIRONMENT)
    try:
        _awaited(lambda: any(tmp_path.glob("store/*/hangs")))
        yield process
    finally:
        process.kill()
        process.wait()


class WhenWaiting(Silent):
    """Does something once a cell waits for another command."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def advance(self, cell: Cell, share: float, text: str) -> None:
        if "waiting" in text:
            assert cell.label == "cell 0"
            self.act()


def test_a_cell_is_taken_over_from_a_killed_command(other: subprocess.Popen, tmp_path: Path) -> None:
    folders = run_grid(cells(2), grid_work.note, tmp_path / "store", 0, WhenWaiting(other.kill))
    assert other.wait(timeout=10) == -signal.SIGKILL  # by this test, since cell 0 was waited for
    assert [runs(folder) for folder in folders.values()] == [1, 1]


def test_a_cell_that_another_command_finishes_is_not_run_again(tmp_path: Path) -> None:
    (cell,) = cells(1)
    folder = tmp_path / cell.key
    folder.mkdir()
    lock = FileLock(folder / "lock")

    def finish() -> None:
        (folder / "done.json").write_text(json.dumps(cell.config))
        lock.release()

    with lock:
        run_grid(cells(1), grid_work.note, tmp_path, 0, WhenWaiting(finish))
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupt_ends_the_wait_for_another_command(other: subprocess.Popen, tmp_path: Path, workers: int) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid(cells(1), grid_work.note, tmp_path / "store", workers, WhenWaiting(interrupt))
    assert multiprocessing.active_children() == []
    assert not any(tmp_path.glob("store/*/ran"))
    assert other.poll() is None


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        import grid_work
        from skiplab.study.grid import Cell, Silent, run_grid
        if __name__ == "__main__":
            run_grid([Cell("slow", {"value": 1, "steps": 500, "seconds": 0.1})], grid_work.note,
                     Path(sys.argv[1]), 1, Silent())
    """)
    file = tmp_path / "main.py"
    file.write_text(script)
    parent = subprocess.Popen([sys.executable, file, tmp_path / "store"], env=ENVIRONMENT)
    worker = _awaited(lambda: _worker(tmp_path / "store"))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()


def _worker(store: Path) -> int:
    """The process at work, 0 before there is one."""
    texts = [file.read_text() for file in store.glob("*/ran")]
    return next((int(text.split()[0]) for text in texts if text.endswith("\n")), 0)


def _awaited(find: Callable[[], Any]) -> Any:
    """What is found once there is something."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := find():
            return found
        time.sleep(0.1)
    raise AssertionError("the other process did not start")
