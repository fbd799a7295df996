"""Modules that act in training alone and leave no trace in an inference graph."""

from torch import nn

from skiplab.graph.ops import op_info
from skiplab.graph.program import Program
from skiplab.graph.source_map import module_name
from skiplab.graph.torch_compat import schema_of

_RATES = ("p", "drop_prob", "drop_rate", "rate")


def train_only(model: nn.Module, program: Program) -> tuple[str, ...]:
    """Paths of modules that drop something in training and have no such operator in an inference graph.

    Drop-path (torchvision's StochasticDepth too) returns its input, and a dropout in attention is only a rate that goes
    into the attention operator. A called `nn.Dropout` does leave an operator, which follows the mode.
    """
    kept = _with_dropout(program)
    return tuple(path for path, module in model.named_modules() if path not in kept and _drops(module))


def _drops(module: nn.Module) -> bool:
    kind = type(module).__name__.lower()
    if "drop" in kind or "stochasticdepth" in kind:
        names = [name for name in _RATES if hasattr(module, name)]
    else:  # attention with a dropout rate
        names = [name for name in vars(module) if "dropout" in name]
    return any(isinstance(rate, float) and rate > 0 for rate in (getattr(module, name) for name in names))


def _with_dropout(program: Program) -> set[str]:
    """Paths of all modules with an operator that drops something in training."""
    paths: set[str] = set()
    for node in program.graph.graph.nodes:
        schema = schema_of(node.target)
        named = {argument.name for argument in schema.arguments} if schema is not None else set()
        if op_info(node).dropout or {"dropout", "train"} <= named:
            paths.update(module_name(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values())
    return paths
