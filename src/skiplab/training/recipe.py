"""The hyperparameters of training, and the learning rate of each step."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from skiplab.errors import UsageError

Precision = Literal["32-true", "bf16-mixed", "fast"]
_FIRST_FIELDS = 9  # present in every record; later fields only where they differ from their default


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of training. The defaults are SGD with momentum and weight decay, as in He et al. 2016,
    arXiv:1512.03385, §4.2.

    Attributes:
        epochs: passes over the training data.
        batch_size: training samples per step.
        learning_rate: peak learning rate.
        momentum: momentum of SGD, or β₁ of AdamW.
        weight_decay: weight decay of all weights.
        schedule: learning rate schedule after the warm-up.
        warmup_epochs: epochs of linear warm-up; may be a fraction.
        seed: seed of the initial weights and of the order of the data.
        precision: number format, with the names of Lightning Fabric; "fast" is bfloat16 where the device has units for
            it, float32 elsewhere, with images in channels-last memory format.
        optimizer: SGD with momentum, or AdamW.
        beta2: decay rate of the second moment of AdamW, β₂.
        clip: largest norm of the gradient of all weights; larger ones are scaled down.
        augment: data augmentation of the training images.
        padding: pixels of padding on each side before a random crop.
        eval_samples: training samples for the training loss and error of all epochs but the last; 0 for all.

    Raises:
        UsageError: a value is out of range.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "step"] = "cosine"
    warmup_epochs: float = 0.0
    seed: int = 0
    precision: Precision = "32-true"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    beta2: float = 0.999
    clip: float | None = None
    augment: Literal["none", "crop", "crop-flip"] = "none"
    padding: int = 4
    eval_samples: int = 0

    def __post_init__(self) -> None:
        rules = {
            "epochs": (self.epochs >= 1, "give at least 1"),
            "batch_size": (self.batch_size >= 1, "give at least 1"),
            "learning_rate": (0 < self.learning_rate < math.inf, "give a number above 0"),
            "momentum": (0 <= self.momentum < 1, "give a number from 0 to below 1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "give a number of at least 0"),
            "warmup_epochs": (0 <= self.warmup_epochs <= self.epochs, "give a number from 0 to epochs"),
            "seed": (0 <= self.seed < 2**63, "give a number from 0 to 2⁶³ − 1"),
            "beta2": (0 <= self.beta2 < 1, "give a number from 0 to below 1"),
            "clip": (self.clip is None or 0 < self.clip < math.inf, "give a number above 0, or none"),
            "padding": (self.padding >= 1, "give at least 1"),
            "eval_samples": (self.eval_samples >= 0, "give a number of samples, 0 for all"),
            **{
                name: (getattr(self, name) in get_args(kind), f"choose one of {', '.join(map(repr, get_args(kind)))}")
                for name, kind in get_type_hints(Recipe).items()
                if get_origin(kind) is Literal
            },
        }
        for name, (valid, fix) in rules.items():
            if not valid:
                raise UsageError(f"{name}={getattr(self, name)!r}: {fix}")

    def record(self) -> dict[str, Any]:
        """The recipe as JSON, for the identity of a saved run. Fields added after the first version appear only if they
        differ from their default, so that earlier runs keep their identity."""
        later = {field.name: field.default for field in fields(self)[_FIRST_FIELDS:]}
        return {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}


def learning_rate_at(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of one step, counted from 0.

    In a warm-up of W steps it is (step + 1) / (W + 1) of the peak rate. Then `cosine` falls over half a period to 0
    (Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5, without restarts); `step` divides by 10 after one half and
    again after three quarters of all steps (He et al. 2016, §4.2).
    """
    total = recipe.epochs * steps_per_epoch
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    if recipe.schedule == "cosine":
        return recipe.learning_rate * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
    return recipe.learning_rate / 10 ** ((2 * step >= total) + (4 * step >= 3 * total))
