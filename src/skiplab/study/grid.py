"""Run the cells of a grid in parallel, one thread each; finished cells are not run again.

A cell is a JSON configuration. The name of its folder is a hash of this configuration and of the code that the run
executes. So a stopped grid resumes from its checkpoints, and a change of the code starts new runs, which are never
mixed with old ones.
"""

import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from filelock import AcquireReturnProxy, FileLock, Timeout

from skiplab.errors import WorkerError
from skiplab.io.atomic import writing_to
from skiplab.io.resume import FRESH, ResumeStore, StoreLayout
from skiplab.study.cache_key import code_hash

Report = Callable[[float, str], None]  # (finished share from 0 to 1, current step); raises if the grid is stopped
Work = Callable[[dict[str, Any], Path, Report], None]  # runs one configuration and writes its results to the folder

_DONE = StoreLayout("done.json", fix=FRESH)  # the configuration of a cell, written when it has finished
_GRACE = 5.0  # seconds for a stopped cell to end by itself


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        label: its name in progress reports: "plain-50 seed 1".
        config: the settings that identify the run, as JSON.
        cost: expected work, in any unit. The most expensive runs start first, and progress is weighted by cost.
    """

    label: str
    config: dict[str, Any]
    cost: float = 1.0

    @property
    def key(self) -> str:
        text = json.dumps([self.config, code_hash(self.config.get("study"))], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@runtime_checkable
class Listener(Protocol):
    """Receives the progress of a grid."""

    def begin(self, cells: Sequence[Cell], finished: Sequence[Cell]) -> None: ...
    def advance(self, cell: Cell, share: float, text: str) -> None: ...
    def finish(self, cell: Cell) -> None: ...


class StoppedError(Exception):
    """Raised inside a worker's `report` if the grid is stopped."""


def run_grid(
    cells: Sequence[Cell], work: Work, store: Path, workers: int, listener: Listener, *, fresh: bool = False
) -> dict[str, Path]:
    """Run all unfinished cells; returns the folder of each label.

    Args:
        cells: the grid.
        work: a function at the top level of a module, since it runs in other processes.
        store: the folder that contains the cells' folders.
        workers: number of processes. 0 runs all cells in this process, for a `work` that other processes cannot import.
        listener: receives progress.
        fresh: delete earlier results of these cells first.

    An exception, such as Ctrl-C, stops the running cells and is raised. The next call resumes these cells from their
    last checkpoints.
    """
    folders = {cell.label: store / cell.key for cell in cells}
    if fresh:
        for folder in folders.values():
            _forget(folder)
    finished = [cell for cell in cells if _DONE.check(folders[cell.label], cell.config)]
    listener.begin(cells, finished)
    todo = [cell for cell in cells if cell not in finished]
    todo.sort(key=lambda cell: -cell.cost)
    if workers == 0:
        _run_here(todo, work, folders, listener)
    elif todo:
        _run(todo, work, folders, min(workers, len(todo)), listener)
    return folders


def _run_here(todo: list[Cell], work: Work, folders: dict[str, Path], listener: Listener) -> None:
    for cell in todo:
        _finish(work, cell.config, folders[cell.label], functools.partial(listener.advance, cell))
        listener.finish(cell)


def _run(todo: list[Cell], work: Work, folders: dict[str, Path], workers: int, listener: Listener) -> None:
    context = multiprocessing.get_context("spawn")  # a fork of a process that has used torch's threads may hang
    events, stop = context.Queue(), context.Event()
    with ProcessPoolExecutor(workers, context, _prepare, (events, stop)) as pool:
        try:
            jobs = {
                pool.submit(_work_on, work, i, cell.config, folders[cell.label]): cell for i, cell in enumerate(todo)
            }
            _watch(jobs, todo, events, listener)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            _end(multiprocessing.active_children())
            raise


def _end(workers: list[Any]) -> None:
    """Wait until running cells reach their next report, then kill the others. Checkpoints stay valid."""
    deadline = time.monotonic() + _GRACE
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def _forget(folder: Path) -> None:
    with writing_to(folder), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _watch(jobs: dict[Future, Cell], todo: list[Cell], events: Any, listener: Listener) -> None:
    pending = dict(jobs)
    while pending:
        with contextlib.suppress(queue.Empty):
            index, share, text = events.get(timeout=0.2)
            if todo[index] in pending.values():  # a report may arrive after its cell has ended
                listener.advance(todo[index], share, text)
        for job in [job for job in pending if job.done()]:
            cell = pending.pop(job)
            try:
                job.result()
            except BrokenProcessPool:
                raise WorkerError(
                    f"a process was killed during {cell.label}, perhaps because memory ran out: run the same command "
                    "again with fewer processes (--workers 1) to continue"
                ) from None
            listener.finish(cell)


_channel: tuple[Any, Any] | None = None  # a worker's queue and stop flag; set once in each worker process


def _prepare(events: Any, stop: Any) -> None:
    global _channel
    _channel = (events, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_follow_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _follow_parent() -> None:
    """End this worker when its parent process ends, even by a kill."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work_on(work: Work, index: int, config: dict[str, Any], folder: Path) -> None:
    assert _channel is not None
    events, stop = _channel

    def report(share: float, text: str) -> None:
        events.put((index, share, text))
        if stop.is_set():
            raise StoppedError

    _finish(work, config, folder, report)


def _finish(work: Work, config: dict[str, Any], folder: Path, report: Report) -> None:
    """Run the cell, unless another command has just finished it."""
    report(0.0, "starting")
    folder.mkdir(parents=True, exist_ok=True)
    with _acquired(folder / "lock", report):
        if not _DONE.check(folder, config):
            work(config, folder, report)
            ResumeStore(folder, config, _DONE).claim()


def _acquired(file: Path, report: Report) -> AcquireReturnProxy:
    """Wait while another command runs the same cell. The system releases the lock of a process that ends."""
    lock = FileLock(file, timeout=0.5)
    while True:
        try:
            return lock.acquire()
        except Timeout:
            report(0.0, "waiting for another command that runs it")  # raises if the grid is stopped


def available_workers() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


class Silent:
    """A listener that ignores progress."""

    def begin(self, cells: Sequence[Cell], finished: Sequence[Cell]) -> None: ...
    def advance(self, cell: Cell, share: float, text: str) -> None: ...
    def finish(self, cell: Cell) -> None: ...
