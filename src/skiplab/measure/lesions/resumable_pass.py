"""Passes over the data: each a fold over batches, saved after every batch, that goes on from where it was stopped."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from skiplab.data.bound_batches import Batch, BoundBatch, require_again, validate_batches
from skiplab.errors import DataError, UsageError
from skiplab.graph.program import Program
from skiplab.io.atomic import replacing, writable_folder
from skiplab.io.hashing import checksum
from skiplab.io.resume import differences
from skiplab.measure.batches import map_chunks
from skiplab.measure.memory import peak_bytes, samples

State = dict[str, Tensor]


class Running(TypedDict, total=False):
    """Keyword options of every sweep of lesions, that say how it is run."""

    reestimate: bool
    """Whether each network is measured a second time, with batch norm statistics re-estimated on `batches`."""
    memory: float | None
    """GiB that activations may take (weights and an operator's own workspace come on top): batches are split into
    parts that fit. None, the default: they are split only when they do not fit."""
    progress: Callable[[int, int | None], None] | None
    """Called with how many networks have been run on a batch, and how many there will be: None when `batches`
    has no length."""
    folder: Path | str | None
    """Where the results so far are kept after every batch. The same call on the same folder, after an interrupt,
    goes on from there; `batches` and the functions must give what they gave, which is not checked."""
    seed: int
    """Of everything random, the resamples of the intervals included: 0."""


@dataclass(frozen=True, eq=False)
class Part:
    """Samples that are run at once.

    Attributes:
        given: their inputs and targets.
        offset: how many samples came before them.
        tick: to be called with the number of networks that have been run on them so far.
    """

    given: BoundBatch
    offset: int
    tick: Callable[[int], None]


class Passes:
    """All the passes over the data that one sweep takes.

    Args:
        program: what is run.
        batches: pairs (inputs, target).
        plan: for each pass, its name and the number of networks that it runs on a batch.
        running: memory, progress and folder are read.
        identity: the JSON that makes this sweep this one and no other.
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
            require_again(batches, f"the data is read {len(plan)} times ({', '.join(plan)})")
        self.program, self.batches, self.plan = program, batches, plan
        memory, self.progress = running.get("memory"), running.get("progress")
        self.largest = None if memory is None else _largest(program, memory)
        folder = running.get("folder")
        self.folder = None if folder is None else writable_folder(folder)
        self.identity: dict[str, Any] = {}
        if self.folder is not None:
            named = {"program": program.fingerprint, "weights": checksum(program.tensors.values()), **identity}
            self.identity = json.loads(json.dumps(named))  # as it will be read back: lists, not tuples
        self.done = 0
        total = sum(plan.values())
        self.total = total * len(batches) if hasattr(batches, "__len__") else None  # type: ignore[arg-type]

    def fold(self, name: str, work: Callable[[Part], State], join: Callable[[State, State], State]) -> State:
        """`work` on every part of the data, joined in order. `work` changes nothing outside before it returns."""
        state, done, finished = self._load(name)
        if finished:
            self._report(self.plan[name] * done)
            return state
        before = 0
        for number, given in enumerate(validate_batches(self.program, self.batches)):
            if number >= done:
                for _, new in self._worked(given, before, self.plan[name], work):
                    state = join(state, new) if state else new
                self._save(name, state, number + 1, finished=False)
            before += given.size
            self._report(self.plan[name])
        self._save(name, state, number + 1, finished=True)  # type: ignore[possibly-unbound]  # checked: not empty
        return state

    def _worked(
        self, given: BoundBatch, offset: int, networks: int, work: Callable[[Part], State]
    ) -> Iterator[tuple[BoundBatch, State]]:
        """The parts of one batch and what `work` makes of them."""
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

        # What fits is kept, so that the next batch need not find it out anew.
        self.largest = yield from map_chunks(self.program, given, on, self.largest)

    def _report(self, networks: int) -> None:
        self.done += networks
        if self.progress is not None:
            self.progress(self.done, self.total)

    def _load(self, name: str) -> tuple[State, int, bool]:
        """The state of a pass, the number of batches in it, and whether these are all."""
        if self.folder is None or not (path := self.folder / f"{name}.safetensors").exists():
            return {}, 0, False
        mend = "choose another folder, or delete that file"
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            identity, done, finished = (json.loads(metadata[key]) for key in ("identity", "batches", "finished"))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"cannot read {path} ({error}): {mend}") from error
        if other := list(differences(identity, self.identity)):
            raise DataError(f"{path} holds other lesions ({'; '.join(other)[:300]}): {mend}")
        return state, done, finished

    def _save(self, name: str, state: State, done: int, *, finished: bool) -> None:
        if self.folder is not None:
            about = {"identity": self.identity, "batches": done, "finished": finished}
            with replacing(self.folder / f"{name}.safetensors") as path:
                save_file(state, path, {key: json.dumps(value) for key, value in about.items()})


def _largest(program: Program, memory: float) -> int | None:
    """How many samples fit: of the pass through the whole network, and of one fork off it."""
    if not memory > 0:
        raise UsageError(f"memory={memory:g}: give GiB, above 0")
    each_sample = 2 * peak_bytes(program)
    fitting = int(memory * 2**30 // each_sample)
    if program.dynamic_batch and fitting:
        return fitting
    least = samples(program)
    if fitting < least:
        needed = least * each_sample / 2**30
        raise UsageError(
            f"memory={memory:g}: {program.name} needs {needed:.3g} GiB for {least} samples, the fewest that it can run "
            "on: allow as much, or capture it with smaller inputs"
        )
    return None
