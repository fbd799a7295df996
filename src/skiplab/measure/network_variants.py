"""The network that a measure runs on: the original one, without its shortcuts, with fresh weights, or both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.analysis.edges import shortcut_edges
from skiplab.analysis.skips import Skips
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Edge, Patch
from skiplab.graph.ops import WEIGHT_LAYERS, op_info
from skiplab.graph.program import Op, Program

Network = Literal["original", "plain", "reinitialized", "reinitialized plain"]
NETWORKS: tuple[Network, ...] = get_args(Network)


@dataclass(frozen=True)
class Variant:
    """A network as changes of an `Execution`: values on edges, and tensors by placeholder."""

    name: str
    edges: Mapping[Edge, Patch] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


ORIGINAL = Variant("original")


def check_networks(options: Mapping[str, Any]) -> None:
    """UsageError for a name among `networks` that is none of `NETWORKS`."""
    for name in options.get("networks", ()):
        if name not in NETWORKS:
            raise UsageError(f"network {name!r}: choose of {', '.join(NETWORKS)}")


def variants(program: Program, skips: Skips, names: Sequence[Network], seed: int = 0) -> list[Variant]:
    """The variants of those names (of `NETWORKS`).

    In the *plain* network zeros arrive at each merge in place of its shortcut's value, so that weights, shapes and
    concats do not change. *Reinitialized* weights are drawn from `seed`: kernels and matrices normal with variance
    2 / fan-in (He et al. 2015, arXiv:1502.01852, eq. 10), norms to weight 1 and bias 0 with running statistics 0
    and 1, other biases 0; all other parameters (position embeddings, layer-scale) keep their values.
    """
    check_networks({"networks": names})
    zeros = {edge: torch.zeros_like for skip in skips for edge in shortcut_edges(program, skip)}
    reinitialized = [name for name in names if name.startswith("reinitialized")]
    fresh = _fresh_tensors(program, seed) if reinitialized else {}
    return [
        Variant(name, zeros if name.endswith("plain") else {}, fresh if name in reinitialized else {}) for name in names
    ]


def _fresh_tensors(program: Program, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    fresh: dict[str, Tensor] = {}
    for op in program.ops:
        for role, node in _roles(program.nodes[op.name]).items():
            name = _placeholder(node)
            if name in fresh or name not in program.tensors:
                continue
            old = program.tensors[name]
            if op.kind in WEIGHT_LAYERS and name in program.parameters:
                fresh[name] = _kernel(op, role, old, generator) if old.ndim > 1 else torch.zeros_like(old)
            elif op.kind in ("norm", "batch_norm") and role in _NORM_START:
                fresh[name] = torch.full_like(old, _NORM_START[role])
    return {name: tensor.detach() for name, tensor in fresh.items()}


_NORM_START = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def _kernel(op: Op, role: str, old: Tensor, generator: torch.Generator) -> Tensor:
    """Drawn by fan-in, which is the first dimension of a right-hand matrix and of a transposed kernel."""
    fresh = torch.empty(old.shape, dtype=torch.float32)  # on the CPU: the same numbers on every device
    inputs_first = role in ("mat2", "other", "tensor2") or op_info(op.target).transposed
    mode = "fan_out" if inputs_first else "fan_in"
    return torch.nn.init.kaiming_normal_(fresh, mode=mode, nonlinearity="relu", generator=generator).to(old)


def _roles(node: Node) -> dict[str, Node]:
    """An operator's operands by the names in its schema; entries of a list are numbered."""
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else []
    found: dict[str, Node] = {}
    for name, value in [*zip(names, node.args, strict=False), *node.kwargs.items()]:
        if isinstance(value, Node):
            found[name] = value
        elif isinstance(value, (list, tuple)):
            found.update({f"{name}{i}": each for i, each in enumerate(value) if isinstance(each, Node)})
    return found


def _placeholder(node: Node) -> str:
    """The tensor that an operand is, or is a cast or view of."""
    while node.op == "call_function" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node.name
