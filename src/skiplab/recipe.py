"""What a training is: its hyperparameters, and the learning rate that they give to each step."""

import math
from dataclasses import dataclass
from typing import Literal

from skiplab.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """How to train: SGD with momentum, and weight decay on all weights, as in He et al. 2016,
    arXiv:1512.03385, §4.2.

    `warmup_epochs` may be a fraction. `precision` is Lightning Fabric's name for it.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "step"] = "cosine"
    warmup_epochs: float = 0.0
    seed: int = 0
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        rules = {
            "epochs": (self.epochs >= 1, "give at least 1"),
            "batch_size": (self.batch_size >= 1, "give at least 1"),
            "learning_rate": (0 < self.learning_rate < math.inf, "give a number above 0"),
            "momentum": (0 <= self.momentum < 1, "give a number from 0 to below 1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "give a number of at least 0"),
            "schedule": (self.schedule in ("cosine", "step"), "choose 'cosine' or 'step'"),
            "warmup_epochs": (0 <= self.warmup_epochs <= self.epochs, "give a number from 0 to epochs"),
            "seed": (0 <= self.seed < 2**63, "give a number from 0 to 2⁶³ − 1"),
            "precision": (self.precision in ("32-true", "bf16-mixed"), "choose '32-true' or 'bf16-mixed'"),
        }
        for name, (kept, mend) in rules.items():
            if not kept:
                raise UsageError(f"{name}={getattr(self, name)!r}: {mend}")


def learning_rate_at(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of one step, counted from 0.

    The warm-up's W steps climb in a line, (step + 1) / (W + 1) of the full rate. Then `cosine` falls along
    half a period towards 0 (Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5, without restarts); `step`
    divides by 10 at one half and again at three quarters of all steps (He et al. 2016, §4.2).
    """
    total = recipe.epochs * steps_per_epoch
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    if recipe.schedule == "cosine":
        return recipe.learning_rate * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
    return recipe.learning_rate / 10 ** ((2 * step >= total) + (4 * step >= 3 * total))
