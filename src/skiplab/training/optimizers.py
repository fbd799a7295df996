"""The optimiser of a recipe, and its state by names that a file can hold."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from skiplab.training.recipe import Recipe

# The name in a checkpoint of each tensor that torch's optimisers keep beside a weight.
_NAMES = {"momentum": "momentum_buffer", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "adam_step": "step"}


def optimizer_of(recipe: Recipe, weights: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    every, rate, decay = weights.values(), recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(every, rate, betas=(recipe.momentum, recipe.beta2), weight_decay=decay)
    return torch.optim.SGD(every, rate, momentum=recipe.momentum, weight_decay=decay)


def state_of(optimizer: torch.optim.Optimizer, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """What the next step depends on beside the weights, as `kind.name of the weight`."""
    state: dict[str, Tensor] = {}
    for name, weight in weights.items():
        kept = optimizer.state.get(weight, {})
        state |= {f"{kind}.{name}": kept[key] for kind, key in _NAMES.items() if kept.get(key) is not None}
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
            if key != "step":  # Adam's count stays on the CPU
                saved = torch.empty_like(weight, dtype=saved.dtype).copy_(saved)  # laid as the weight: the same bits
            optimizer.state[weight][key] = saved
