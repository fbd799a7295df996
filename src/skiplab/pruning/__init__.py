"""Depth pruning: remove the blocks that a network misses least, and report what each removal costs and saves.

Importing this package does not import torch: each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skiplab.pruning.block_influence import influence
    from skiplab.pruning.depth_pruning import Pruned, prune
    from skiplab.pruning.evaluation import Evaluator
    from skiplab.pruning.finetune import finetuned
    from skiplab.pruning.units import Unit, Units

_HOME = {
    "Evaluator": "evaluation",
    "Pruned": "depth_pruning",
    "Unit": "units",
    "Units": "units",
    "finetuned": "finetune",
    "influence": "block_influence",
    "prune": "depth_pruning",
}

__all__ = ["Evaluator", "Pruned", "Unit", "Units", "finetuned", "influence", "prune"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return globals()[name]
