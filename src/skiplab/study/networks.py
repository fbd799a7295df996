"""The networks of most studies, narrow ResNets for 8×8 digits and the plain network, and how they are trained."""

from collections.abc import Mapping
from typing import Any

from skiplab.errors import UsageError
from skiplab.models.resnet import ResNet, resnet
from skiplab.study.run_cell import build_with_seed
from skiplab.training.recipe import Recipe

RECIPE = Recipe(epochs=10, batch_size=128, learning_rate=0.1)
WIDTH = 8  # channels of the first stage: enough for 8×8 digits, and 50 layers train in seconds
VARIANTS: dict[str, Any] = {  # options of `resnet`
    "plain": {"skip": None},
    "post-activation": {"placement": "post"},
    "pre-activation": {"placement": "pre"},
}
PLAIN, *RESIDUAL = VARIANTS


def digit_network(settings: Mapping[str, Any], **options: Any) -> ResNet:
    """The network with a run's depth and the initial weights of its seed."""
    return build_with_seed(lambda: resnet(settings["depth"], width=WIDTH, in_channels=1, **options), settings["seed"])


def is_valid(settings: Mapping[str, Any]) -> bool:
    """True; raises `UsageError` for a depth that none of these networks has."""
    depth = settings["depth"]
    if depth < 8 or (depth - 2) % 6:
        below = max(8, depth - (depth - 2) % 6)
        raise UsageError(f"depth {depth}: these networks have 6n + 2 weight layers, such as {below}, {below + 6}")
    return True


def estimated_cost(settings: Mapping[str, Any]) -> float:
    """Proportional to depth and epochs. Lesions are quadratic in depth, but cheap compared with training."""
    return settings["depth"] * settings["recipe"]["epochs"] + 60


def network_key(variant: str, depth: int) -> dict[str, Any]:
    """The key columns of a network's rows in a table."""
    return {"variant": variant, "depth": depth}
