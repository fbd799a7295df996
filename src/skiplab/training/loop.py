"""The training loop itself: weights, momentum and random states, and how a step and an epoch change them."""

import math
import time
from copy import deepcopy

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from skiplab.data import DataSet, Split, batches
from skiplab.errors import DataError, UsageError
from skiplab.training.augment import augment_batch, check_images, draw_augmentation
from skiplab.training.checkpoint import Row
from skiplab.training.objectives import check_output, task_of
from skiplab.training.optimizers import load_state, optimizer_of, state_of
from skiplab.training.precision import channels_last, to_channels_last, to_contiguous
from skiplab.training.recipe import Recipe, learning_rate_at

READ_EVERY = 32  # steps between two readings of the loss: each makes an accelerator wait


def evaluate(model: nn.Module, split: Split, batch_size: int = 256) -> tuple[float, float]:
    """Loss and error over a part, as `training.objectives` defines them, in evaluation mode; modes are put back.

    Of classes the mean cross-entropy in nats and the share of wrong answers; of values the mean squared error and
    the share of the part's variance that is left unexplained.
    """
    task = task_of(split)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    parts = []
    try:
        with torch.no_grad():  # not inference_mode, whose tensors a model that caches could not train with
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
    """Tries one example in evaluation mode; `DataError` for a model that does not take it, or does not answer."""
    x = split.x[:1]
    try:
        with torch.no_grad():
            output = model.eval()(x)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        example = f"an example of {data.name}, shape {tuple(x.shape[1:])}, {x.dtype}"
        raise DataError(f"the model cannot take {example}: {why}") from error
    check_output(output, split, data)


def check_trainable(model: nn.Module) -> None:
    """`UsageError` for a model of which nothing can be trained."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError("the model has no weights to train: give it some, or set requires_grad on some that it has")


class Loop:
    """Everything that training changes: weights, momentum and random states."""

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
        self.random = torch.Generator().manual_seed(recipe.seed)  # of the order, and of what is done to pictures

    def _placed(self, split: Split) -> Split:
        """On the device, and as the model's kernels lie."""
        there = split.to(self.fabric.device)
        return Split(channels_last(there.x), there.y) if self.recipe.precision == "fast" else there

    def epoch(self, epoch: int) -> list[Row]:
        """One pass over the training examples: the rows of its steps and its own, or up to a broken step."""
        start = time.perf_counter()
        rows, counts = self._steps(epoch)
        if math.isnan(rows[-1]["loss"]) or not self._is_finite():
            return rows
        row: Row = {"kind": "epoch", **{key: rows[-1][key] for key in ("epoch", "step", "learning_rate")}}
        for key in ("loss", "error"):
            total = sum(step[key] * count for step, count in zip(rows, counts, strict=True))
            row[f"running_{key}"] = total / sum(counts)
        judged = self.train_split if epoch == self.recipe.epochs else self.train_eval_split
        row["train_loss"], row["train_error"] = evaluate(self.module, judged, self.recipe.batch_size)
        row["test_loss"], row["test_error"] = evaluate(self.module, self.test_split, self.recipe.batch_size)
        row["seconds"] = time.perf_counter() - start
        return [*rows, row]

    def _is_finite(self) -> bool:
        """Whether the last step, whose loss was taken before it, has left the weights finite."""
        norms = torch.stack([weight.detach().double().norm() for weight in self.module.parameters()])
        return bool(norms.isfinite().all())

    def _steps(self, epoch: int) -> tuple[list[Row], list[float]]:
        """The rows of an epoch's steps, and how much each one's means were taken over."""
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
                broken = (i for i, row in enumerate(rows) if math.isnan(row["loss"]))
                if (first := next(broken, None)) is not None:
                    return rows[: first + 1], counts[: first + 1]
        return rows, counts

    def _augment(self, x: Tensor) -> Tensor:
        if self.recipe.augment == "none":
            return x
        draws = draw_augmentation(len(x), self.recipe.augment, self.recipe.padding, self.random)
        return augment_batch(x, draws, self.recipe.padding)

    def _step(self, x: Tensor, y: Tensor, rate: float) -> Tensor:
        """One step; loss, error, gradient norm and count stay on the device, where nobody waits for them."""
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
            raise DataError(  # such as batch norm without places, which has nothing to normalise over
                f"the model cannot learn from a batch of one example, the last of an epoch: {error}; choose another "
                f"batch_size than {self.recipe.batch_size}"
            ) from error

    def tensors(self) -> dict[str, Tensor]:
        """The state that the next epoch depends on, by name."""
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
        """The trained model itself, without what training hung on it."""
        self.optimizer.zero_grad()
        if self.recipe.precision == "fast":
            to_contiguous(self.model)
        return self.model.eval()


def _eval_subset(split: Split, recipe: Recipe) -> Split:
    """The examples that the training part is judged by after all epochs but the last."""
    if not 0 < recipe.eval_samples < len(split):
        return split
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(recipe.seed))
    chosen = order[: recipe.eval_samples].to(split.y.device)
    return Split(split.x[chosen], split.y[chosen])


def _nan_unless_finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan
