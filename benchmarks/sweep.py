"""Capture, find and census over every architecture of timm, torchvision and transformers, one line of JSON a model.

    python benchmarks/sweep.py --out sweep.jsonl [--source timm] [--only 'resnet*'] [--limit 100] [--jobs 2]
    python benchmarks/sweep.py --out sweep.jsonl --table docs/coverage.md

Needs timm, torchvision and transformers. What the file has is not run again; delete lines to repeat them
(`--again crash` drops and repeats the models with that status). A worker process imports the libraries once and
takes model after model; one that takes more than `--timeout` seconds of a core or `--memory` GiB is killed, and
recorded as such. Seconds are those of the core, so that what else the machine does hardly changes them.

Status of a model: `captured`; `failed` (an error that Skiplab names); `crash` (any other exception: a bug of
Skiplab, at the stage and the place recorded); `timeout`; `killed` (memory); `unbuilt` (the library itself does not
build it: a missing package, or a configuration without defaults).
"""

import argparse
import contextlib
import fnmatch
import gc
import json
import math
import multiprocessing
import queue
import resource
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SOURCES = ("timm", "torchvision", "transformers")
STAGES = ("build", "capture", "find", "census")
WORKER_MODELS = 60  # after which a worker is replaced, so that what libraries cache cannot pile up


def main() -> None:
    arguments = _arguments()
    if arguments.table:
        from coverage_page import page

        arguments.table.write_text(page(_read(arguments.out)))
        return
    done = {(row["source"], row["name"]) for row in _kept(arguments.out, arguments.again)}
    work: queue.Queue[tuple[str, str]] = queue.Queue()
    from sources import names

    todo = [(source, name) for source in arguments.source or SOURCES for name in names(source)]
    todo = [each for each in todo if each not in done and fnmatch.fnmatch(each[1], arguments.only)]
    for each in todo[: arguments.limit]:
        work.put(each)
    print(f"{len(done)} models done, {work.qsize()} to do", file=sys.stderr)
    lock = threading.Lock()
    threads = [threading.Thread(target=_drive, args=(work, lock, arguments)) for _ in range(arguments.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--source", action="append", choices=SOURCES)
    parser.add_argument("--only", default="*")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=600, help="seconds of a core for one model")
    parser.add_argument("--memory", type=float, default=12, help="GiB of address space for one worker")
    parser.add_argument("--again", action="append", default=[], help="a status whose models are run again")
    return parser.parse_args()


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _kept(path: Path, again: list[str]) -> list[dict[str, Any]]:
    rows = _read(path)
    kept = [row for row in rows if row["status"] not in again]
    if len(kept) < len(rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    return kept


def _drive(work: "queue.Queue[tuple[str, str]]", lock: threading.Lock, arguments: argparse.Namespace) -> None:
    """Feeds one worker after the other until no work is left."""
    worker, connection, count = None, None, 0
    while True:
        try:
            source, name = work.get_nowait()
        except queue.Empty:
            break
        if worker is None or count == WORKER_MODELS:
            _stop(worker)
            worker, connection = _start(arguments.memory, arguments.timeout)
            count = 0
        assert connection is not None
        start = time.perf_counter()
        row = _ask(worker, connection, source, name)
        if row["status"] in ("timeout", "killed"):
            _stop(worker)
            worker = None
        row |= {"source": source, "name": name, "seconds": round(time.perf_counter() - start, 2)}
        count += 1
        with lock:
            with arguments.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{work.qsize():5} {row['status']:9} {row['seconds']:6.1f} s  {source}:{name}", file=sys.stderr)
    _stop(worker)


def _start(memory: float, timeout: float) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=_work, args=(theirs, memory, timeout), daemon=True)
    worker.start()
    theirs.close()
    return worker, ours  # type: ignore[return-value]


def _stop(worker: BaseProcess | None) -> None:
    if worker is not None:
        worker.kill()
        worker.join()


def _ask(worker: BaseProcess, connection: Connection, source: str, name: str) -> dict[str, Any]:
    try:
        connection.send((source, name))
        return connection.recv()
    except (EOFError, OSError):
        worker.join()
        if worker.exitcode == -signal.SIGXCPU:
            return {"status": "timeout", "stage": "", "reason": "more seconds than --timeout"}
        return {"status": "killed", "stage": "", "reason": f"the worker process died ({worker.exitcode})"}


def _work(connection: Connection, memory: float, timeout: float) -> None:
    limit = int(memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    import torch

    torch.set_num_threads(1)
    while True:
        source, name = connection.recv()
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + timeout), resource.RLIM_INFINITY))
        connection.send(one(source, name))
        gc.collect()


def one(source: str, name: str) -> dict[str, Any]:
    """Builds, captures and reads one model, trying the ways to build it until one is captured."""
    from sources import attempts

    failures: list[dict[str, Any]] = []
    decides = False  # by its data's values, which are there only in a real build
    for how, build in attempts(source, name):
        if decides and "real" not in how:
            continue
        row = _try(build)
        row["how"] = how
        if row["status"] in ("captured", "crash"):
            return row | ({"before": failures} if failures else {})
        failures.append(row)
        decides |= "data-dependent" in row["reason"]
    # the attempt that got furthest says most, of several the last
    furthest = max(range(len(failures)), key=lambda i: (STAGES.index(failures[i]["stage"]), i))
    return failures[furthest] | {"tried": [row["how"] for row in failures]}


def _try(build: Any) -> dict[str, Any]:
    """One model through all stages: what came of it, and the seconds of each stage."""
    import skiplab
    from skiplab.errors import SkiplabError, UsageError
    from skiplab.loading.resolve import quiet

    row: dict[str, Any] = {"status": "captured", "stage": "build"}
    seconds = row["stages"] = {}

    @contextlib.contextmanager
    def stage(name: str) -> Any:
        row["stage"] = name
        start = time.process_time()
        yield
        seconds[name] = round(time.process_time() - start, 3)

    try:
        with quiet(), stage("build"):
            resolved = build()
        row["inputs"] = _shapes(resolved)
        row["parameters"] = sum(p.numel() for p in resolved.model.parameters())
        with quiet(), stage("capture"):
            program = skiplab.capture(resolved.model, resolved.args, resolved.kwargs)
        row |= {"ops": len(program.ops), "dynamic": program.dynamic_batch, "unfollowed": len(program.unfollowed)}
        with stage("find"):
            skips = skiplab.find(program)
        row["skips"] = dict(Counter(f"{skip.combine}/{skip.shortcut}" for skip in skips))
        row["apart"] = dict(Counter(each.reason for each in skips.non_skips))
        row["other"] = dict(Counter(op.target for op in program.ops if op.kind == "other"))
        with stage("census"):
            row["log2_paths"] = round(math.log2(skiplab.census(program).paths or 1), 1)
    except SkiplabError as error:
        ours = row["stage"] != "build" or isinstance(error, UsageError)  # no example inputs is ours
        row |= {"status": "failed" if ours else "unbuilt", "error": type(error).__name__}
        row |= {"reason": _line(error), "cause": _root(error)}
    except Exception as error:
        row |= {"status": "crash", "error": type(error).__name__, "reason": _line(error)}
        row |= {"where": _where(error), "trace": traceback.format_exc()[-3000:]}
    return row


def _shapes(resolved: Any) -> str:
    from torch.utils import _pytree as pytree

    named = [*(("", value) for value in resolved.args), *((f"{k}=", value) for k, value in resolved.kwargs.items())]
    leaves = [(name, leaf) for name, value in named for leaf in pytree.tree_leaves(value)]
    return ", ".join(name + "x".join(map(str, getattr(leaf, "shape", [leaf]))) for name, leaf in leaves)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]


def _root(error: BaseException) -> str:
    """The first cause's innermost frame: where in which library it started."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__} at {_where(error)}"


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{'/'.join(Path(f.filename).parts[-3:])}:{f.lineno}" for f in reversed(frames[-5:]))


if __name__ == "__main__":
    main()
