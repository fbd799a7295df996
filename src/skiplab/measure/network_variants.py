"""The network that a measure runs on: as it is, without its shortcuts, with fresh weights, or both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.analysis.edges import shortcut_edges
from skiplab.analysis.skips import Skips
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Edge, Patch
from skiplab.graph.ops import WEIGHT_LAYERS
from skiplab.graph.program import Op, Program
from skiplab.graph.torch_compat import schema_of

NAMES = ("as it is", "twin", "reinitialised", "reinitialised twin")


@dataclass(frozen=True)
class Variant:
    """What an `Execution` changes to run it: values on edges, and tensors by placeholder."""

    name: str
    edges: Mapping[Edge, Patch] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


AS_IT_IS = Variant(NAMES[0])


def variants(program: Program, skips: Skips, names: Sequence[str], seed: int = 0) -> list[Variant]:
    """The variants of those names (of `NAMES`).

    In the *twin* zeros arrive at each merge where its shortcut's value would, so that weights, shapes and concats
    stay as they are. *Reinitialised* weights are drawn from `seed`: kernels and matrices normal with variance
    2 / fan-in (He et al. 2015, arXiv:1502.01852, eq. 10), norms to weight 1 and bias 0 with running statistics 0
    and 1, other biases 0; whatever else the network learns (position embeddings, layer-scale) stays as it is.
    """
    for name in names:
        if name not in NAMES:
            raise UsageError(f"network {name!r}: choose of {', '.join(NAMES)}")
    zeros = {edge: torch.zeros_like for skip in skips for edge in shortcut_edges(program, skip)}
    anew = [name for name in names if name.startswith("reinitialised")]
    fresh = _reinitialised(program, seed) if anew else {}
    return [Variant(name, zeros if name.endswith("twin") else {}, fresh if name in anew else {}) for name in names]


def _reinitialised(program: Program, seed: int) -> dict[str, Tensor]:
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
            elif "norm" in op.target and role in _NORM_START:
                fresh[name] = torch.full_like(old, _NORM_START[role])
    return {name: tensor.detach() for name, tensor in fresh.items()}


_NORM_START = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def _kernel(op: Op, role: str, old: Tensor, generator: torch.Generator) -> Tensor:
    """Fan-in lies along the first dimension of a matrix multiplied from the right, and of a transposed kernel."""
    fresh = torch.empty(old.shape, dtype=torch.float32)  # on the CPU: the same numbers on every device
    inputs_first = role in ("mat2", "other", "tensor2") or "conv_transpose" in op.target
    mode = "fan_out" if inputs_first else "fan_in"
    return torch.nn.init.kaiming_normal_(fresh, mode=mode, nonlinearity="relu", generator=generator).to(old)


def _roles(node: Node) -> dict[str, Node]:
    """An operator's operands by the name of the parameter that takes them; parts of a list are numbered."""
    schema = schema_of(node.target)
    names = [argument.name for argument in schema.arguments] if schema else []
    found: dict[str, Node] = {}
    for name, value in [*zip(names, node.args, strict=False), *node.kwargs.items()]:
        if isinstance(value, Node):
            found[name] = value
        elif isinstance(value, (list, tuple)):
            found.update({f"{name}{i}": each for i, each in enumerate(value) if isinstance(each, Node)})
    return found


def _placeholder(node: Node) -> str:
    """The tensor that an operand is, or is a mere cast or view of."""
    while node.op == "call_function" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node.name
