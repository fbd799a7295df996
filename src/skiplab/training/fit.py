"""Training: a plain loop on Lightning Fabric, which logs every step and goes on where it was killed."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.precision.amp import MixedPrecision
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from skiplab.data import DataSet
from skiplab.errors import DivergedError, UsageError
from skiplab.graph.rng import isolated_rng
from skiplab.training.checkpoint import Row, RunStore
from skiplab.training.loop import Loop, evaluate
from skiplab.training.precision import Precision, precision_record, resolve_precision
from skiplab.training.recipe import Recipe, learning_rate_at

__all__ = ["Recipe", "Run", "evaluate", "fit", "learning_rate_at"]


@dataclass(frozen=True, eq=False)
class Run:
    """A finished training: the model in evaluation mode, and what was logged on the way.

    `history`, one row an epoch: `epoch` and `step` (both from 1), `learning_rate` (of its last step),
    `running_loss` and `running_error` (over the epoch, in training mode, while the weights changed),
    `train_loss`, `train_error`, `test_loss`, `test_error` (at its end, in evaluation mode), `seconds`.
    `steps`, one row a step: `epoch`, `step`, `learning_rate`, `loss`, `error`, and `gradient_norm`, the L2
    norm over all weights, before any clipping. What was not finite is NaN.

    Of classes, losses are mean cross-entropies in nats and errors shares of wrong answers, from 0 to 1, both over
    what is asked. Of values, losses are mean squared errors and errors shares of the part's variance that are left
    unexplained: 0 for a perfect model, 1 for the part's mean (see `skiplab.training.objectives`).
    """

    model: nn.Module
    history: pd.DataFrame
    steps: pd.DataFrame
    status: str


def fit(
    model: nn.Module,
    data: DataSet,
    recipe: Recipe,
    folder: Path | str | None = None,
    on_epoch: Callable[[Row], None] | None = None,
    device: str = "auto",
    *,
    visit: Callable[[int, nn.Module], None] | None = None,
) -> Run:
    """Trains a copy of `model`; the one handed in stays as it was, and so do torch's random states.

    With a `folder`, every epoch is kept there (see `skiplab.training.checkpoint`), and a call that finds an unfinished
    run of the same recipe and data resumes it: bit for bit as if it had never stopped, on the CPU with as
    many threads as before and wherever else kernels are deterministic. A finished run is loaded and returned
    at once. Without a folder nothing is written. `on_epoch` receives each new row of the history once it is
    safe; what it raises ends the training. `visit` is shown the model as it is before training (0) and after each
    epoch, before that epoch is kept, so that a run that was killed shows an epoch again rather than leave it out;
    what it leaves should not depend on how often it came. Every layer is in training mode during the epochs.
    `device` is one of auto, cpu, cuda, cuda:N and mps, and is where the run's model stays.

    Raises `DataError` when the folder holds another run or the model does not fit the data, `OutputError`
    when the folder cannot be written, and `DivergedError`, with the log kept, when the loss is not finite; its
    `history` has the epochs before.
    """
    fabric = fabric_on(device, recipe.precision)
    with _own_randomness(fabric.device):
        _seed(fabric.device, recipe.seed)
        loop = Loop(fabric, model, data, recipe)
        run_store = RunStore(folder, {} if folder is None else _identity(loop, data))
        show = _visitor(fabric, loop, visit)
        done, rows = _resume(loop, run_store, show)
        for epoch in range(done + 1, recipe.epochs + 1):
            new = loop.epoch(epoch)
            rows += new
            if new[-1]["kind"] == "step":  # the epoch's own row is missing: it did not get that far
                run_store.diverge(epoch, new)
                raise _diverged(rows, recipe)
            show(epoch)
            run_store.save(epoch, loop.tensors(), new)
            if on_epoch is not None:
                with _own_randomness(fabric.device):  # its draws must not change the training
                    on_epoch(dict(new[-1]))
    run = Run(loop.trained_model(), _table(rows, "epoch"), _table(rows, "step"), "finished")
    run_store.finish(recipe.epochs, run.model.state_dict(), run.history)
    return run


def _identity(loop: Loop, data: DataSet) -> dict[str, Any]:
    """What makes a run this run and no other."""
    meaning = precision_record(loop.recipe.precision, loop.fabric.device)
    return {"recipe": loop.recipe.record(), "data": data.fingerprint(), "weights": loop.shapes(), **meaning}


def _visitor(fabric: Fabric, loop: Loop, visit: Callable[[int, nn.Module], None] | None) -> Callable[[int], None]:
    """Shows the loop's model to who visits it, whose draws must not change the training."""

    def show(epoch: int) -> None:
        if visit is not None:
            with _own_randomness(fabric.device):
                visit(epoch, loop.model)

    return show


def _resume(loop: Loop, run_store: RunStore, show: Callable[[int], None]) -> tuple[int, list[Row]]:
    """Loads the state that an earlier call has kept; returns the number of finished epochs, and the log so far."""
    saved = run_store.load()
    if saved is None:
        show(0)
        run_store.save(0, loop.tensors(), [])
        return 0, []
    loop.restore(saved.tensors)
    if saved.status == "diverged":
        raise _diverged(saved.rows, loop.recipe)
    return saved.epoch, saved.rows


def fabric_on(device: str, precision: Precision = "32-true") -> Fabric:
    """Lightning Fabric on the one device asked for; UsageError for one that is not here."""
    choices = "choose auto, cpu, cuda, cuda:N or mps"
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise UsageError(f"device={device!r}: {choices}")
    kind, _, index = device.partition(":")
    devices = [int(index)] if index else 1
    plugins: list[Any] = [LightningEnvironment()]  # one process, whatever cluster it may run on
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as that another accelerator stays unused
            fabric = Fabric(accelerator=kind, devices=devices, plugins=plugins)
            if resolve_precision(precision, fabric.device) == "32-true":
                return fabric
            plugins.append(
                MixedPrecision("bf16-mixed", fabric.device.type)
            )  # by name, it would be precision_record on stderr
            return Fabric(accelerator=kind, devices=devices, plugins=plugins)
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise UsageError(f"device={device!r} is not available here; {choices}") from error


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """With `device` as current device, if it is a CUDA device; the block leaves torch's random state unchanged."""
    current = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with current, isolated_rng(device=device):
        yield


def _seed(device: torch.device, seed: int) -> None:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every other device as well
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _diverged(rows: list[Row], recipe: Recipe) -> DivergedError:
    row = rows[-1]
    return DivergedError(
        f"the loss is not a finite number at epoch {row['epoch']}, step {row['step']}: try a learning rate "
        f"below {recipe.learning_rate} or a warm-up longer than {recipe.warmup_epochs} epochs",
        history=_table(rows, "epoch"),
    )


def _table(rows: list[Row], kind: str) -> pd.DataFrame:
    return pd.DataFrame([row for row in rows if row["kind"] == kind]).drop(columns="kind", errors="ignore")
