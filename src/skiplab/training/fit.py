"""Training: a loop on Lightning Fabric that logs every step and resumes after an interruption."""

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
    """A finished training run.

    For classification, a loss is the mean cross-entropy in nats and an error the share of wrong predictions, from 0 to
    1, both without ignored targets. For regression, a loss is the mean squared error and an error the unexplained share
    of the variance of the split: 0 for a perfect model, 1 for the constant mean (see `skiplab.training.objectives`).

    Attributes:
        model: the trained model, in evaluation mode.
        history: one row per epoch: `epoch` and `step` (from 1), `learning_rate` (of the last step), `running_loss` and
            `running_error` (means over the steps, in training mode), `train_loss`, `train_error`, `test_loss`,
            `test_error` (after the epoch, in evaluation mode), `seconds`.
        steps: one row per step: `epoch`, `step`, `learning_rate`, `loss`, `error`, `gradient_norm` (L2 norm of the
            gradient of all weights, before clipping). Values that are not finite are NaN.
        status: "finished".
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
    """Trains a copy of `model`; the model itself and torch's random states are unchanged.

    All layers are in training mode during an epoch. The default recipe is that of He et al. 2016, arXiv:1512.03385,
    §4.2 (see `Recipe`).

    Args:
        model: takes a batch (N, ...) of `data.train.x`; returns scores (N, classes, ...) for classification, or values
            of the shape of the targets for regression.
        data: training and test split.
        recipe: hyperparameters, including the seed.
        folder: folder to save each epoch in (see `skiplab.training.checkpoint`); None saves nothing. An unfinished run
            with the same recipe and data is resumed, bit for bit if kernels are deterministic (on the CPU: with the
            same number of threads). A finished run is loaded.
        on_epoch: called with each new row of the history after it is saved; an exception stops the training.
        device: auto, cpu, cuda, cuda:N or mps; the model of the result is there.
        visit: called with epoch and model before training (epoch 0) and after each epoch, before it is saved. After an
            interruption it may be called twice for one epoch, so its effect must not depend on the number of calls.

    Raises:
        DataError: the model does not take the data, its output does not match the targets, or the folder has another
            run.
        UsageError: the model has no trainable parameter, or the device is not available.
        OutputError: the folder cannot be written.
        DivergedError: the loss is not finite; its `history` has the epochs before. The log is saved.
    """
    fabric = fabric_on(device, recipe.precision)
    with _own_randomness(fabric.device):
        _seed(fabric.device, recipe.seed)
        loop = Loop(fabric, model, data, recipe)
        run_store = RunStore(folder, {} if folder is None else _identity(loop, data))
        visitor = _visitor(fabric, loop, visit)
        done, rows = _resume(loop, run_store, visitor)
        for epoch in range(done + 1, recipe.epochs + 1):
            new = loop.epoch(epoch)
            rows += new
            if new[-1]["kind"] == "step":  # the row of the epoch is missing, so a step was not finite
                run_store.diverge(epoch, new)
                raise _diverged(rows, recipe)
            visitor(epoch)
            run_store.save(epoch, loop.tensors(), new)
            if on_epoch is not None:
                with _own_randomness(fabric.device):  # so that it cannot change the training
                    on_epoch(dict(new[-1]))
    run = Run(loop.trained_model(), _table(rows, "epoch"), _table(rows, "step"), "finished")
    run_store.finish(recipe.epochs, run.model.state_dict(), run.history)
    return run


def _identity(loop: Loop, data: DataSet) -> dict[str, Any]:
    """The identity of a run: recipe, data, shapes of the weights, and the precision on this device."""
    precision = precision_record(loop.recipe.precision, loop.fabric.device)
    return {"recipe": loop.recipe.record(), "data": data.fingerprint(), "weights": loop.shapes(), **precision}


def _visitor(fabric: Fabric, loop: Loop, visit: Callable[[int, nn.Module], None] | None) -> Callable[[int], None]:
    """Calls `visit` with isolated random states, so that it cannot change the training."""

    def call_visit(epoch: int) -> None:
        if visit is not None:
            with _own_randomness(fabric.device):
                visit(epoch, loop.model)

    return call_visit


def _resume(loop: Loop, run_store: RunStore, visitor: Callable[[int], None]) -> tuple[int, list[Row]]:
    """Loads the saved state; returns the number of finished epochs, and the rows of the log."""
    saved = run_store.load()
    if saved is None:
        visitor(0)
        run_store.save(0, loop.tensors(), [])
        return 0, []
    loop.restore(saved.tensors)
    if saved.status == "diverged":
        raise _diverged(saved.rows, loop.recipe)
    return saved.epoch, saved.rows


def fabric_on(device: str, precision: Precision = "32-true") -> Fabric:
    """Lightning Fabric on one device; raises UsageError for an unknown or unavailable device."""
    choices = "choose auto, cpu, cuda, cuda:N or mps"
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise UsageError(f"device={device!r}: {choices}")
    kind, _, index = device.partition(":")
    devices = [int(index)] if index else 1
    plugins: list[Any] = [LightningEnvironment()]  # one process, also on a cluster
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as that an accelerator is not used
            fabric = Fabric(accelerator=kind, devices=devices, plugins=plugins)
            if resolve_precision(precision, fabric.device) == "32-true":
                return fabric
            plugins.append(MixedPrecision("bf16-mixed", fabric.device.type))  # given by name, Fabric prints a message
            return Fabric(accelerator=kind, devices=devices, plugins=plugins)
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise UsageError(f"device={device!r} is not available here; {choices}") from error


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Makes a CUDA device the current one, and restores torch's random states after the block."""
    current = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with current, isolated_rng(device=device):
        yield


def _seed(device: torch.device, seed: int) -> None:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed also seeds all other devices
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _diverged(rows: list[Row], recipe: Recipe) -> DivergedError:
    row = rows[-1]
    return DivergedError(
        f"the loss is not finite at epoch {row['epoch']}, step {row['step']}: try a learning rate below "
        f"{recipe.learning_rate} or a warm-up longer than {recipe.warmup_epochs} epochs",
        history=_table(rows, "epoch"),
    )


def _table(rows: list[Row], kind: str) -> pd.DataFrame:
    return pd.DataFrame([row for row in rows if row["kind"] == kind]).drop(columns="kind", errors="ignore")
