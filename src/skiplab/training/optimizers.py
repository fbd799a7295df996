"""The optimizer of a recipe, and its state as named tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from skiplab.training.recipe import Recipe

# Names in a checkpoint, and in the state of torch's optimizers.
_NAMES = {"momentum": "momentum_buffer", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "adam_step": "step"}


def optimizer_of(recipe: Recipe, weights: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    parameters, rate, decay = weights.values(), recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, rate, betas=(recipe.momentum, recipe.beta2), weight_decay=decay)
    return torch.optim.SGD(parameters, rate, momentum=recipe.momentum, weight_decay=decay)


def state_of(optimizer: torch.optim.Optimizer, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The state of the optimizer, by name: "momentum.WEIGHT", "exp_avg.WEIGHT" …"""
    state: dict[str, Tensor] = {}
    for name, weight in weights.items():
        of_weight = optimizer.state.get(weight, {})
        state |= {f"{kind}.{name}": of_weight[key] for kind, key in _NAMES.items() if of_weight.get(key) is not None}
    return state


def load_state(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Loads the tensors of `state_of` into the optimizer."""
    for name, weight in weights.items():
        for kind, key in _NAMES.items():
            saved = tensors.get(f"{kind}.{name}")
            if saved is None:
                continue
            if key != "step":  # the step count of Adam is on the CPU
                saved = torch.empty_like(weight, dtype=saved.dtype).copy_(
                    saved
                )  # the memory format of the weight, for the same bits
            optimizer.state[weight][key] = saved
