"""The folder of a training run, from which a killed run is taken up again without losing a bit.

    run.json                  which run this is, how far it came, and which of the bytes beside it count
    checkpoint-E.safetensors  everything that training needs to go on after epoch E
    log.jsonl                 one line for each step and each epoch
    model.safetensors         when the run has finished: the weights, under the model's own names
    history.csv               when the run has finished: the log's epochs, as a table

Replacing `run.json` is what makes an epoch count. It names the checkpoint and the length of the log that
belong together; whatever a kill leaves beside them is ignored and overwritten.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from skiplab.errors import DataError
from skiplab.io.atomic import append_text, writable_folder, write_bytes, write_json, write_text, writing_to
from skiplab.io.resume import differences

Row = dict[str, Any]

FORMAT = 1
MEND = "train into another folder, or start over in this one (--fresh; discard() in Python)"


@dataclass(frozen=True)
class Checkpoint:
    """A run as it was when an epoch ended; its tensors lie on the CPU."""

    status: str  # running, finished or diverged
    epoch: int
    tensors: dict[str, Tensor]
    rows: list[Row]


class RunFolder:
    """Writes one run into one folder; `identity` is the JSON that makes it this run and no other."""

    def __init__(self, path: Path | str, identity: dict[str, Any]) -> None:
        self.path = writable_folder(path)
        self.identity = json.loads(json.dumps(identity))  # as it will be read back: lists, not tuples
        self.status = "new"
        self.log_bytes = 0

    def load(self) -> Checkpoint | None:
        """What an earlier call left here, or None; `DataError` when that was another run."""
        if not (self.path / "run.json").exists():
            log = self.path / "log.jsonl"
            if log.exists() and log.stat().st_size:  # an empty one is all that a kill can leave alone
                raise DataError(f"{self.path} holds a log.jsonl but no run.json, so it is no run; {MEND}")
            return None
        record = self._read_record()
        there = {key: record.get(key) for key in self.identity}
        if changed := list(differences(there, self.identity)):
            raise DataError(f"{self.path} holds another run: {', '.join(changed)}; {MEND}")
        weights = self.path / record["weights"]
        try:
            tensors = safetensors.torch.load_file(weights)
        except (OSError, SafetensorError) as error:
            raise DataError(f"cannot read the checkpoint {weights}: {error}; {MEND}") from error
        if record["status"] == "finished":
            tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
        self._sweep(record["weights"])
        self.status, self.log_bytes = record["status"], record["log_bytes"]
        return Checkpoint(self.status, record["epoch"], tensors, self._read_log())

    def save(self, epoch: int, tensors: dict[str, Tensor], rows: list[Row]) -> None:
        """Keeps the state after `epoch`, and the log's new rows."""
        weights = f"checkpoint-{epoch}.safetensors"
        self._write_tensors(weights, tensors)
        self._commit("running", epoch, weights, rows)

    def diverge(self, epoch: int, rows: list[Row]) -> None:
        """Keeps the log of an epoch that ended in a loss which is not a number, above the last good state."""
        self._commit("diverged", epoch - 1, f"checkpoint-{epoch - 1}.safetensors", rows)

    def finish(self, epoch: int, weights: dict[str, Tensor], history: pd.DataFrame) -> None:
        """Leaves the folder as its readers want it: weights, history, log and status."""
        if self.status == "finished":
            return
        self._write_tensors("model.safetensors", weights)
        write_text(self.path / "history.csv", history.to_csv(index=False))
        self._commit("finished", epoch, "model.safetensors", [])

    def _commit(self, status: str, epoch: int, weights: str, rows: list[Row]) -> None:
        lines = "".join(json.dumps(_without_nan(row), allow_nan=False) + "\n" for row in rows)
        self.log_bytes = append_text(self.path / "log.jsonl", lines, after=self.log_bytes)
        record = {"format": FORMAT, "status": status, "epoch": epoch, "weights": weights}
        record |= {"log_bytes": self.log_bytes, "torch": torch.__version__, **self.identity}
        write_json(self.path / "run.json", record)
        self.status = status
        self._sweep(weights)

    def _sweep(self, weights: str) -> None:
        """Removes old checkpoints, and what a kill left of files that were being written."""
        killed = [f".{name}.*.tmp" for name in ("run.json", "history.csv", "*.safetensors", "probe")]
        with writing_to(self.path):
            for pattern in ["checkpoint-*.safetensors", *killed]:
                for path in self.path.glob(pattern):
                    if path.name != weights:
                        path.unlink()

    def _write_tensors(self, name: str, tensors: dict[str, Tensor]) -> None:
        # Copies, because safetensors refuses tensors that share memory (tied weights).
        apart = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
        write_bytes(self.path / name, safetensors.torch.save(apart))

    def _read_record(self) -> dict[str, Any]:
        path = self.path / "run.json"
        try:
            record = json.loads(path.read_text())
            known = record["format"]
            if known == FORMAT:
                return {**record, **{key: record[key] for key in ("status", "epoch", "weights", "log_bytes")}}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"cannot read {path} ({error!r}); {MEND}") from error
        raise DataError(f"{path} has format {known}, and this version reads {FORMAT}; {MEND}")

    def _read_log(self) -> list[Row]:
        path = self.path / "log.jsonl"
        try:
            content = path.read_bytes()
            if len(content) < self.log_bytes:
                raise DataError(f"{path} lost its end: {len(content)} of {self.log_bytes} bytes are left; {MEND}")
            rows = [json.loads(line) for line in content[: self.log_bytes].splitlines()]
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path} ({error}); {MEND}") from error
        return [{key: math.nan if value is None else value for key, value in row.items()} for row in rows]


def discard(folder: Path | str) -> None:
    """Removes a run from its folder: the files named above, and nothing else that lies there."""
    folder = Path(folder)
    names = ("run.json", "log.jsonl", "model.safetensors", "history.csv")
    with writing_to(folder):
        for path in [*(folder / name for name in names), *folder.glob("checkpoint-*.safetensors")]:
            path.unlink(missing_ok=True)


def _without_nan(row: Row) -> Row:
    """JSON knows neither NaN nor infinities; the log says null."""
    broken = [key for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    return row | dict.fromkeys(broken)
