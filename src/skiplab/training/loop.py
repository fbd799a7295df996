"""The training loop: its state (weights, optimizer, random states), steps and epochs."""

import math
import time
from copy import deepcopy

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from skiplab.data import DataSet, Split, batches
from skiplab.errors import DataError, UsageError, format_shape
from skiplab.training.augment import augment_batch, check_images, draw_augmentation
from skiplab.training.checkpoint import Row
from skiplab.training.objectives import check_output, task_of
from skiplab.training.optimizers import load_state, optimizer_of, state_of
from skiplab.training.precision import channels_last, to_channels_last, to_contiguous
from skiplab.training.recipe import Recipe, learning_rate_at

READ_EVERY = 32  # steps between two transfers of losses from the device: each one synchronizes


def evaluate(model: nn.Module, split: Split, batch_size: int = 256) -> tuple[float, float]:
    """Loss and error of a model over a split, in evaluation mode; training modes are restored afterwards.

    For classification: mean cross-entropy in nats, and share of wrong predictions. For regression: mean squared error,
    and unexplained share of the variance of the split (see `skiplab.training.objectives`). NaN if not finite.
    """
    task = task_of(split)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    parts = []
    try:
        with torch.no_grad():  # inference_mode would break training of models that cache tensors
            for x, y in batches(split, batch_size):
                loss, error = task.sums(model(x), y)
                parts.append(torch.stack((loss, error.to(loss.dtype), task.count(y).to(loss.dtype))))
    finally:
        for module, training in modes:
            module.training = training
    losses, errors, counts = map(sum, zip(*torch.stack(parts).tolist(), strict=True))
    if not counts:
        return math.nan, math.nan
    return _nan_unless_finite(losses / counts), _nan_unless_finite(errors / counts)


def check_sample(model: nn.Module, split: Split, data: DataSet) -> None:
    """Runs one sample in evaluation mode; raises DataError if the model does not take it, or for a wrong output."""
    x = split.x[:1]
    try:
        with torch.no_grad():
            output = model.eval()(x)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        sample = f"{format_shape(x.shape[1:])}, {str(x.dtype).removeprefix('torch.')}"
        raise DataError(f"the model does not take the samples of {data.name} ({sample}): {reason}") from error
    check_output(output, split, data)


def check_trainable(model: nn.Module) -> None:
    """Raises UsageError if no parameter requires a gradient."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError("the model has no trainable parameters: set requires_grad on some")


class Loop:
    """The state of a training run: weights, optimizer and random states."""

    def __init__(self, fabric: Fabric, model: nn.Module, data: DataSet, recipe: Recipe) -> None:
        check_images(data, recipe.augment)
        self.fabric, self.recipe = fabric, recipe
        self.train_split, self.test_split = (self._placed(split) for split in (data.train, data.test))
        self.train_eval_split = _eval_subset(self.train_split, recipe)
        self.task = task_of(self.train_split)
        self.steps_per_epoch = math.ceil(len(data.train) / recipe.batch_size)
        self.model = deepcopy(model)
        if recipe.precision == "fast":
            to_channels_last(self.model)
        self.module = fabric.setup_module(self.model)
        check_trainable(self.model)
        self.weights = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        for split in (self.train_split, self.test_split):
            check_sample(self.module, split, data)
        self.optimizer = optimizer_of(recipe, self.weights)
        self.random = torch.Generator().manual_seed(recipe.seed)  # of the order of samples, and of augmentation

    def _placed(self, split: Split) -> Split:
        """The split on the device, with "fast" precision in channels-last memory format."""
        moved = split.to(self.fabric.device)
        return Split(channels_last(moved.x), moved.y) if self.recipe.precision == "fast" else moved

    def epoch(self, epoch: int) -> list[Row]:
        """One pass over the training samples, or up to a loss that is not finite: rows of its steps, and its own."""
        start = time.perf_counter()
        rows, counts = self._steps(epoch)
        if math.isnan(rows[-1]["loss"]) or not self._is_finite():
            return rows
        row: Row = {"kind": "epoch", **{key: rows[-1][key] for key in ("epoch", "step", "learning_rate")}}
        for key in ("loss", "error"):
            total = sum(step[key] * count for step, count in zip(rows, counts, strict=True))
            row[f"running_{key}"] = total / sum(counts)
        evaluated = self.train_split if epoch == self.recipe.epochs else self.train_eval_split
        row["train_loss"], row["train_error"] = evaluate(self.module, evaluated, self.recipe.batch_size)
        row["test_loss"], row["test_error"] = evaluate(self.module, self.test_split, self.recipe.batch_size)
        row["seconds"] = time.perf_counter() - start
        return [*rows, row]

    def _is_finite(self) -> bool:
        """Whether all weights are finite: the last loss was computed before the last update."""
        norms = torch.stack([weight.detach().double().norm() for weight in self.module.parameters()])
        return bool(norms.isfinite().all())

    def _steps(self, epoch: int) -> tuple[list[Row], list[float]]:
        """The rows of the steps of an epoch, and the number of targets in each mean."""
        self.module.train()
        rows: list[Row] = []
        counts: list[float] = []
        unread: list[Tensor] = []
        for x, y in batches(self.train_split, self.recipe.batch_size, self.random):
            step = (epoch - 1) * self.steps_per_epoch + len(rows)
            rate = learning_rate_at(self.recipe, step, self.steps_per_epoch)
            unread.append(self._step(self._augment(x), y, rate))
            rows.append({"kind": "step", "epoch": epoch, "step": step + 1, "learning_rate": rate})
            if len(unread) == READ_EVERY or len(rows) == self.steps_per_epoch:
                for row, (*measured, count) in zip(rows[-len(unread) :], torch.stack(unread).tolist(), strict=True):
                    names = ("loss", "error", "gradient_norm")
                    row.update(zip(names, map(_nan_unless_finite, measured), strict=True))
                    counts.append(count)
                unread.clear()
                diverged = (i for i, row in enumerate(rows) if math.isnan(row["loss"]))
                if (first := next(diverged, None)) is not None:
                    return rows[: first + 1], counts[: first + 1]
        return rows, counts

    def _augment(self, x: Tensor) -> Tensor:
        if self.recipe.augment == "none":
            return x
        draws = draw_augmentation(len(x), self.recipe.augment, self.recipe.padding, self.random)
        return augment_batch(x, draws, self.recipe.padding)

    def _step(self, x: Tensor, y: Tensor, rate: float) -> Tensor:
        """One step; returns loss, error, gradient norm and number of targets on the device, without synchronization."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        output = self._output(x)
        loss = self.task.loss(output, y)
        self.fabric.backward(loss)
        norm = nn.utils.get_total_norm([p.grad for p in self.weights.values() if p.grad is not None])
        if self.recipe.clip is not None:
            nn.utils.clip_grads_with_norm_(self.weights.values(), self.recipe.clip, norm)
        self.optimizer.step()
        error, count = self.task.error(output, y), self.task.count(y)
        return torch.stack((loss.detach(), *(each.to(loss.dtype) for each in (error, norm, count))))

    def _output(self, x: Tensor) -> Tensor:
        try:
            return self.module(x)
        except ValueError as error:
            if len(x) > 1:
                raise
            raise DataError(  # such as batch norm over one value per channel
                f"the model cannot train on the last batch of an epoch, which has one sample: {error}; choose a "
                f"batch_size other than {self.recipe.batch_size}"
            ) from error

    def tensors(self) -> dict[str, Tensor]:
        """The complete state after an epoch, by name."""
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        state |= state_of(self.optimizer, self.weights)
        state |= {"random.order": self.random.get_state(), "random.cpu": torch.get_rng_state()}
        if self.fabric.device.type != "cpu":
            state["random.device"] = torch.get_device_module(self.fabric.device).get_rng_state()
        return state

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each weight and buffer, by name."""
        return {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Loads a state of `tensors()`, or the weights alone."""
        saved = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        self.model.load_state_dict(saved)
        load_state(self.optimizer, self.weights, tensors)
        if "random.order" in tensors:
            self.random.set_state(tensors["random.order"])
            torch.set_rng_state(tensors["random.cpu"])
        if "random.device" in tensors and self.fabric.device.type != "cpu":
            torch.get_device_module(self.fabric.device).set_rng_state(tensors["random.device"])

    def trained_model(self) -> nn.Module:
        """The trained model in evaluation mode, without gradients."""
        self.optimizer.zero_grad()
        if self.recipe.precision == "fast":
            to_contiguous(self.model)
        return self.model.eval()


def _eval_subset(split: Split, recipe: Recipe) -> Split:
    """The random samples for training loss and error after each epoch except the last."""
    if not 0 < recipe.eval_samples < len(split):
        return split
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(recipe.seed))
    indices = order[: recipe.eval_samples].to(split.y.device)
    return Split(split.x[indices], split.y[indices])


def _nan_unless_finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan
