"""The folder of a training run, from which a killed run resumes without losing a bit.

    identity.json             recipe, data and shapes of the weights: what makes it this run
    run.json                  how many epochs are done, and which other files belong to that state
    checkpoint-E.safetensors  everything that training depends on after epoch E
    log.jsonl                 one line for each step and each epoch
    model.safetensors         of a finished run: the weights, under the model's own names
    history.csv               of a finished run: the log's epochs, as a table

An epoch counts once `run.json` is replaced. It names the checkpoint and the length of the log that belong together;
whatever else a kill leaves in the folder is ignored and overwritten.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from skiplab.io.atomic import append_text, write_text, writing_to
from skiplab.io.json_values import json_record
from skiplab.io.part_files import read_document, read_tensors, reading
from skiplab.io.resume import FRESH, ResumeStore, StoreLayout

Row = dict[str, Any]

FORMAT = 1
LAYOUT = StoreLayout(
    parts=("run.json", "checkpoint-*.safetensors", "log.jsonl", "model.safetensors", "history.csv"),
    fix=f"{FRESH} (in Python: skiplab.training.checkpoint.discard)",
)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run at the end of an epoch; its tensors are on the CPU."""

    status: str  # running, finished or diverged
    epoch: int
    tensors: dict[str, Tensor]
    rows: list[Row]


class RunStore:
    """Keeps one run in one folder; None keeps nothing.

    `identity` is the JSON that makes it this run and no other. Raises `DataError` where the folder holds another.
    """

    def __init__(self, folder: Path | str | None, identity: dict[str, Any]) -> None:
        self._store = ResumeStore(folder, {"format": FORMAT, **identity}, LAYOUT)
        self._folder = self._store.folder
        self._status = "new"
        self._log_bytes = 0

    def load(self) -> Checkpoint | None:
        """What an earlier call has kept, or None; `DataError` for damaged files."""
        if self._folder is None or not (file := self._folder / "run.json").exists():
            return None
        with reading(file, LAYOUT.fix):
            record = read_document(file)
            self._status, epoch, weights, self._log_bytes = (
                record[key] for key in ("status", "epoch", "weights", "log_bytes")
            )
        with reading(self._folder / weights, LAYOUT.fix):
            tensors, _ = read_tensors(self._folder / weights)
        if self._status == "finished":
            tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
        self._remove_all_but(self._folder, weights)
        return Checkpoint(self._status, epoch, tensors, self._read_log(self._folder / "log.jsonl"))

    def save(self, epoch: int, tensors: dict[str, Tensor], rows: list[Row]) -> None:
        """Keeps the state after `epoch`, and the log's new rows."""
        self._store.save_tensors(f"checkpoint-{epoch}", tensors)
        self._commit("running", epoch, f"checkpoint-{epoch}.safetensors", rows)

    def diverge(self, epoch: int, rows: list[Row]) -> None:
        """Keeps the log of an epoch with a loss that is not finite, and the state before it."""
        self._commit("diverged", epoch - 1, f"checkpoint-{epoch - 1}.safetensors", rows)

    def finish(self, epoch: int, weights: dict[str, Tensor], history: pd.DataFrame) -> None:
        """Leaves weights, history, log and status; nothing changes in a folder that was finished before."""
        if self._folder is None or self._status == "finished":
            return
        self._store.save_tensors("model", weights)
        write_text(self._folder / "history.csv", history.to_csv(index=False))
        self._commit("finished", epoch, "model.safetensors", [])

    def _commit(self, status: str, epoch: int, weights: str, rows: list[Row]) -> None:
        if self._folder is None:
            return
        lines = "".join(json.dumps(json_record(row), allow_nan=False) + "\n" for row in rows)
        self._log_bytes = append_text(self._folder / "log.jsonl", lines, after=self._log_bytes)
        record = {"status": status, "epoch": epoch, "weights": weights}
        self._store.save_json("run", record | {"log_bytes": self._log_bytes, "torch": torch.__version__})
        self._status = status
        self._remove_all_but(self._folder, weights)

    @staticmethod
    def _remove_all_but(folder: Path, weights: str) -> None:
        """Removes the other checkpoints, and the temporary files of writes that were killed."""
        with writing_to(folder):
            for path in [*folder.glob("checkpoint-*.safetensors"), *LAYOUT.leftovers(folder)]:
                if path.name != weights:
                    path.unlink()

    def _read_log(self, path: Path) -> list[Row]:
        with reading(path, LAYOUT.fix):
            content = path.read_bytes()
            if len(content) < self._log_bytes:
                raise ValueError(f"{len(content)} of {self._log_bytes} bytes are left")
            rows = [json.loads(line) for line in content[: self._log_bytes].splitlines()]
        return [{key: math.nan if value is None else value for key, value in row.items()} for row in rows]


def discard(folder: Path | str) -> None:
    """Removes a run from its folder, and nothing else that is there."""
    LAYOUT.forget(Path(folder))
