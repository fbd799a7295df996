"""The training loop itself: weights, momentum and random states, and how a step and an epoch change them."""

import math
import time
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from skiplab.checkpoint import MEND, Row
from skiplab.data import DataSet, Split, batches
from skiplab.errors import DataError, UsageError
from skiplab.recipe import Recipe, learning_rate_at

READ_EVERY = 32  # steps between two readings of the loss: each makes an accelerator wait


def evaluate(model: nn.Module, split: Split, batch_size: int = 256) -> tuple[float, float]:
    """Mean cross-entropy in nats and share of wrong answers, in evaluation mode; modes are put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    parts = []
    try:
        with torch.no_grad():  # not inference_mode, whose tensors a model that caches could not train with
            for x, y in batches(split, batch_size):
                logits = model(x)
                loss = F.cross_entropy(logits, y, reduction="sum")
                parts.append(torch.stack((loss, _wrong(logits, y).to(loss.dtype))))
    finally:
        for module, training in modes:
            module.training = training
    losses, wrong = zip(*torch.stack(parts).tolist(), strict=True)
    return _nan_unless_finite(sum(losses) / len(split)), sum(wrong) / len(split)


def must_fit(model: nn.Module, split: Split, data: DataSet) -> None:
    """Tries one example in evaluation mode; `DataError` for a model that does not take it or has too few classes."""
    x = split.x[:1]
    example = f"an example of {data.name}, shape {tuple(x.shape[1:])},"
    try:
        with torch.no_grad():
            logits = model.eval()(x)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"the model cannot take {example}: {why}") from error
    shape = tuple(logits.shape[1:]) if isinstance(logits, Tensor) else type(logits).__name__
    if not (isinstance(shape, tuple) and len(shape) == 1 and shape[0] >= data.classes):
        raise DataError(
            f"the model turns {example} into {shape}, and {data.classes} classes need "
            f"({data.classes},): build it with num_classes={data.classes}"
        )


class Loop:
    """Everything that training changes: weights, momentum and random states."""

    def __init__(self, fabric: Fabric, model: nn.Module, data: DataSet, recipe: Recipe) -> None:
        self.fabric, self.recipe = fabric, recipe
        self.train_split, self.test_split = data.train.to(fabric.device), data.test.to(fabric.device)
        self.steps_per_epoch = math.ceil(len(data.train) / recipe.batch_size)
        self.model = deepcopy(model)
        self.module = fabric.setup_module(self.model)
        self.weights = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if not self.weights:
            raise UsageError("the model has no weights to train: set requires_grad on some")
        must_fit(self.module, self.train_split, data)
        self.optimizer = torch.optim.SGD(
            self.weights.values(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.order = torch.Generator().manual_seed(recipe.seed)

    def epoch(self, epoch: int) -> list[Row]:
        """One pass over the training examples: the rows of its steps and its own, or up to a broken step."""
        start = time.perf_counter()
        rows = self._steps(epoch)
        if math.isnan(rows[-1]["loss"]) or not self._is_finite():
            return rows
        sizes = [self.recipe.batch_size] * len(rows)
        sizes[-1] = len(self.train_split) - sum(sizes[:-1])
        row: Row = {"kind": "epoch", **{key: rows[-1][key] for key in ("epoch", "step", "learning_rate")}}
        for key in ("loss", "error"):
            total = sum(step[key] * size for step, size in zip(rows, sizes, strict=True))
            row[f"running_{key}"] = total / len(self.train_split)
        row["train_loss"], row["train_error"] = evaluate(self.module, self.train_split, self.recipe.batch_size)
        row["test_loss"], row["test_error"] = evaluate(self.module, self.test_split, self.recipe.batch_size)
        row["seconds"] = time.perf_counter() - start
        return [*rows, row]

    def _is_finite(self) -> bool:
        """Whether the last step, whose loss was taken before it, has left the weights finite."""
        norms = torch.stack([weight.detach().double().norm() for weight in self.module.parameters()])
        return bool(norms.isfinite().all())

    def _steps(self, epoch: int) -> list[Row]:
        self.module.train()
        rows: list[Row] = []
        unread: list[Tensor] = []
        for x, y in batches(self.train_split, self.recipe.batch_size, self.order):
            step = (epoch - 1) * self.steps_per_epoch + len(rows)
            rate = learning_rate_at(self.recipe, step, self.steps_per_epoch)
            unread.append(self._step(x, y, rate))
            rows.append({"kind": "step", "epoch": epoch, "step": step + 1, "learning_rate": rate})
            if len(unread) == READ_EVERY or len(rows) == self.steps_per_epoch:
                for row, measured in zip(rows[-len(unread) :], torch.stack(unread).tolist(), strict=True):
                    names = ("loss", "error", "gradient_norm")
                    row.update(zip(names, map(_nan_unless_finite, measured), strict=True))
                unread.clear()
                broken = (i for i, row in enumerate(rows) if math.isnan(row["loss"]))
                if (first := next(broken, None)) is not None:
                    return rows[: first + 1]
        return rows

    def _step(self, x: Tensor, y: Tensor, rate: float) -> Tensor:
        """One step; loss, error and gradient norm stay on the device, where nobody waits for them."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        logits = self.module(x)
        loss = F.cross_entropy(logits, y)
        self.fabric.backward(loss)
        norm = nn.utils.get_total_norm([p.grad for p in self.weights.values() if p.grad is not None])
        self.optimizer.step()
        error = _wrong(logits, y) / len(y)
        return torch.stack((loss.detach(), error.to(loss.dtype), norm.to(loss.dtype)))

    def tensors(self) -> dict[str, Tensor]:
        """The state that the next epoch depends on, by name."""
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, weight in self.weights.items():
            momentum = self.optimizer.state.get(weight, {}).get("momentum_buffer")
            if momentum is not None:
                state[f"momentum.{name}"] = momentum
        state |= {"random.order": self.order.get_state(), "random.cpu": torch.get_rng_state()}
        if self.fabric.device.type != "cpu":
            state["random.device"] = torch.get_device_module(self.fabric.device).get_rng_state()
        return state

    def restore(self, tensors: dict[str, Tensor], folder: Path) -> None:
        """Puts a state back; `DataError` when its weights are another model's."""
        saved = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        there = {name: tuple(tensor.shape) for name, tensor in saved.items()}
        here = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        differing = [name for name in {**here, **there} if here.get(name) != there.get(name)]
        if differing:
            name = differing[0]
            raise DataError(
                f"{folder} holds a run of another model: {name} was {there.get(name, 'absent')}, now "
                f"{here.get(name, 'absent')} ({len(differing)} such differences); {MEND}"
            )
        self.model.load_state_dict(saved)
        for name, weight in self.weights.items():
            if f"momentum.{name}" in tensors:
                self.optimizer.state[weight]["momentum_buffer"] = tensors[f"momentum.{name}"].to(weight.device)
        if "random.order" in tensors:
            self.order.set_state(tensors["random.order"])
            torch.set_rng_state(tensors["random.cpu"])
        if "random.device" in tensors and self.fabric.device.type != "cpu":
            torch.get_device_module(self.fabric.device).set_rng_state(tensors["random.device"])

    def finished(self) -> nn.Module:
        """The trained model itself, without what training hung on it."""
        self.optimizer.zero_grad()
        return self.model.eval()


def _wrong(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.detach().argmax(dim=1) != y).sum()


def _nan_unless_finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan
