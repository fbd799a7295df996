"""Passes over the data: each is a fold over batches that is saved after every batch and can be resumed."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from skiplab.data.bound_batches import Batch, BoundBatch, divisible, require_reiterable, validate_batches
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.io.hashing import checksum
from skiplab.io.resume import ResumeStore, StoreLayout
from skiplab.measure.batches import map_chunks
from skiplab.measure.memory import peak_bytes, samples

State = dict[str, Tensor]

_LAYOUT = StoreLayout(parts=("*.safetensors",))


class Running(TypedDict, total=False):
    """Keyword options of every sweep of lesions, which affect only how it runs.

    Attributes:
        memory: GiB that activations may take (weights and an operator's own workspace come on top): batches are split
            into parts that fit. None, the default: they are split only when they do not fit.
        progress: called with how many networks have been run on a batch, and how many there will be: None when
            `batches` has no length.
        folder: where results are kept after every batch, so that the same call resumes after an interrupt. `batches`
            and the functions must return the same values again, which is not checked.
        seed: seed of everything random, including the resamples of the intervals: 0.
    """

    memory: float | None
    progress: Callable[[int, int | None], None] | None
    folder: Path | str | None
    seed: int


@dataclass(frozen=True, eq=False)
class Part:
    """Samples that are run together.

    Attributes:
        given: their inputs and targets.
        offset: the number of samples before them.
        tick: `work` calls it with the number of networks that it has run on them so far.
    """

    given: BoundBatch
    offset: int
    tick: Callable[[int], None]


class Passes:
    """All passes over the data of one sweep.

    Args:
        program: the network that is run.
        batches: pairs (inputs, target).
        plan: the name of each pass, and the number of networks that it runs on a batch.
        running: options of the sweep, of which memory, progress and folder are read.
        identity: everything that the results depend on besides the network's code and weights, as JSON.

    Raises `DataError` when the folder holds results of another sweep.
    """

    def __init__(
        self,
        program: Program,
        batches: Iterable[Batch],
        plan: Mapping[str, int],
        running: Running,
        identity: Mapping[str, Any],
    ) -> None:
        if len(plan) > 1:
            require_reiterable(batches, f"the data is read {len(plan)} times ({', '.join(plan)})")
        self.program, self.batches, self.plan = program, batches, plan
        memory, self.progress = running.get("memory"), running.get("progress")
        self.largest = None if memory is None else _largest(program, memory)
        self.store = _store(running.get("folder"), program, identity)
        self.done = 0
        total = sum(plan.values())
        self.total = total * len(batches) if hasattr(batches, "__len__") else None  # type: ignore[arg-type]

    def fold(self, name: str, work: Callable[[Part], State], join: Callable[[State, State], State]) -> State:
        """Calls `work` on every part of the data and joins the results in order; resumes a pass that was stopped.

        `work` must have no side effects: a part that does not fit into memory is run again in halves.
        """
        state, done, finished = self._load(name)
        if finished:
            self._report(self.plan[name] * done)
            return state
        before = 0
        for number, given in enumerate(validate_batches(self.program, self.batches)):
            if number >= done:
                for _, new in self._run_parts(given, before, self.plan[name], work):
                    state = join(state, new) if state else new
                self._save(name, state, number + 1, finished=False)
            before += given.size
            self._report(self.plan[name])
        self._save(name, state, number + 1, finished=True)  # type: ignore[possibly-unbound]  # checked: not empty
        return state

    def _run_parts(
        self, given: BoundBatch, offset: int, networks: int, work: Callable[[Part], State]
    ) -> Iterator[tuple[BoundBatch, State]]:
        """The parts of one batch, each with the result of `work`."""
        begun = 0

        def on(part: BoundBatch) -> State:
            nonlocal begun

            def tick(count: int) -> None:
                if self.progress is not None:
                    self.progress(self.done + (begun * networks + count * part.size) // given.size, self.total)

            with torch.no_grad():
                result = work(Part(part, offset + begun, tick))
            begun += part.size
            return result

        # The size that fits is remembered for the next batches.
        self.largest = yield from map_chunks(self.program, given, on, self.largest)

    def _report(self, networks: int) -> None:
        self.done += networks
        if self.progress is not None:
            self.progress(self.done, self.total)

    def _load(self, name: str) -> tuple[State, int, bool]:
        """The state of a pass, the number of batches in it, and whether the pass is finished."""
        saved = self.store.load_tensors(name)
        if saved is None:
            return {}, 0, False
        state, progress = saved
        return state, progress["batches"], progress["finished"]

    def _save(self, name: str, state: State, done: int, *, finished: bool) -> None:
        self.store.save_tensors(name, state, {"batches": done, "finished": finished})


def _store(folder: Path | str | None, program: Program, identity: Mapping[str, Any]) -> ResumeStore:
    if folder is not None:
        identity = {"program": program.fingerprint, "weights": checksum(program.tensors.values()), **identity}
    return ResumeStore(folder, identity, _LAYOUT)


def _largest(program: Program, memory: float) -> int | None:
    """How many samples fit into so many GiB, for a pass through the whole network and one fork of it."""
    if not memory > 0:
        raise UsageError(f"memory={memory:g}: give GiB, above 0")
    each_sample = 2 * peak_bytes(program)
    fitting = int(memory * 2**30 // each_sample)
    if divisible(program) and fitting:
        return fitting
    least = samples(program)
    if fitting < least:
        needed = least * each_sample / 2**30
        raise UsageError(
            f"memory={memory:g}: {program.name} needs {needed:.3g} GiB for {least} samples, the fewest that it can run "
            "on: allow that much, or capture it with smaller inputs"
        )
    return None
