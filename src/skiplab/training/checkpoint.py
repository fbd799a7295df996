"""The folder of a training run, from which an interrupted run resumes bit for bit.

    identity.json             recipe, data and shapes of the weights: the identity of the run
    run.json                  the number of finished epochs, and the other files of that state
    checkpoint-E.safetensors  the complete state after epoch E
    log.jsonl                 one line per step and per epoch
    model.safetensors         of a finished run: the weights, as in the model's state dict
    history.csv               of a finished run: the epochs of the log, as a table

An epoch is saved when `run.json` is replaced: it names the checkpoint and the length of the log. Other files, which an
interrupted write leaves, are ignored and overwritten.
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
    """Saves one run in one folder; with the folder None, nothing is saved.

    Args:
        folder: folder of the run.
        identity: JSON that identifies the run.

    Raises:
        DataError: the folder has a run of another identity.
    """

    def __init__(self, folder: Path | str | None, identity: dict[str, Any]) -> None:
        self._store = ResumeStore(folder, {"format": FORMAT, **identity}, LAYOUT)
        self._folder = self._store.folder
        self._status = "new"
        self._log_bytes = 0

    def load(self) -> Checkpoint | None:
        """The saved state, or None if there is none; raises DataError for damaged files."""
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
        """Saves the state after `epoch`, and appends the rows to the log."""
        self._store.save_tensors(f"checkpoint-{epoch}", tensors)
        self._commit("running", epoch, f"checkpoint-{epoch}.safetensors", rows)

    def diverge(self, epoch: int, rows: list[Row]) -> None:
        """Saves the log of an epoch whose loss is not finite, with the state before this epoch."""
        self._commit("diverged", epoch - 1, f"checkpoint-{epoch - 1}.safetensors", rows)

    def finish(self, epoch: int, weights: dict[str, Tensor], history: pd.DataFrame) -> None:
        """Saves weights and history of a finished run; does nothing if it was saved as finished before."""
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
        """Removes the other checkpoints, and temporary files of interrupted writes."""
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
    """Removes the files of a run from its folder, and no other files."""
    LAYOUT.forget(Path(folder))
