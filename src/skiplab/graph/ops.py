"""What an operator does to the data that passes through it.

Given an operator and which of its operands carry data: is it a weight layer, an activation, a view, …? Finding skips
and counting paths use these kinds. The facts themselves are in `skiplab.graph.op_table`.
"""

from dataclasses import dataclass

from torch.fx import Node

from skiplab.graph.op_table import TABLE, Kind, OpInfo
from skiplab.graph.torch_compat import OpOverload, schema_of

_UNKNOWN = OpInfo()


@dataclass(frozen=True, slots=True)
class Op:
    """One step of the data flow: an operator through which data passes, or an input.

    Attributes:
        index: position in `Program.ops`, which is in order of execution.
        name: name of the node in the graph.
        target: the operator, without overload or in-place underscore: "conv2d", "relu", "add".
        kind: what the operator does to data; see `Kind`.
        inputs: indices of the operands that carry data, in argument order.
        module: path of the module whose `forward` calls it; "" for the root.
        source: "file:line" of the call, with the absolute path; None where the graph does not know.
        shape: its value's shape; None for a dimension that varies, () also for values that are no tensor.
        weights: names of the parameters that it is computed with.
    """

    index: int
    name: str
    target: str
    kind: Kind
    inputs: tuple[int, ...]
    module: str
    source: str | None
    shape: tuple[int | None, ...]
    weights: tuple[str, ...] = ()


# What a shortcut may consist of (DESIGN §2), in addition to one weight layer.
TRANSPARENT: tuple[Kind, ...] = ("view", "resample", "batch_norm")
WEIGHT_LAYERS: tuple[Kind, ...] = ("weight", "recurrent")
LINEAR: tuple[Kind, ...] = (*TRANSPARENT, "input", "weight", "merge", "expand")


def operator_name(target: object) -> str:
    """The name by which the table knows an operator.

    `aten.relu.default` and its in-place form `relu_` are "relu"; other callables keep their name.
    """
    if isinstance(target, OpOverload):
        schema = schema_of(target)
        name = schema.name.split("::")[-1]
        return name.removesuffix("_") if schema.is_mutable else name
    return getattr(target, "__name__", str(target))


def op_info(operator: str | Node) -> OpInfo:
    """What an operator does, by its name or by a node that calls it. An unknown operator is of kind "other"."""
    return TABLE.get(operator if isinstance(operator, str) else operator_name(operator.target), _UNKNOWN)


def draws_random_numbers(node: Node) -> bool:
    """Whether a node gives other values in each run. A dropout that is not active does not."""
    info = op_info(node)
    return info.random and (not info.dropout or is_active_dropout(node))


def is_active_dropout(node: Node) -> bool:
    """Whether a node is a dropout with a rate above zero that is in training mode."""
    if not op_info(node).dropout:
        return False
    rate, active = node.args[1:3]
    return bool(rate) and active is not False


def is_scale(name: str) -> bool:
    """Whether an operator multiplies or divides entry by entry."""
    info = op_info(name)
    return info.multiplication or info.division


def is_zero(name: str, zeros: list[bool]) -> bool:
    """Whether an operator's result is zero everywhere, given which of its tensor operands are."""
    info = op_info(name)
    if info.zeros:
        return True
    return any(zeros) if info.multiplication else info.kind in ("view", "resample", "expand") and zeros == [True]


def keeps_whole(name: str, position: int) -> bool:
    """Whether a merge has all entries of the operand at a position. A write replaces a part of its first operand."""
    combine = op_info(name).combine
    return combine not in ("write", "choose") or (combine == "write" and position > 0)


def read_operands(name: str) -> slice:
    """The tensor operands whose values an operator reads; of the others it reads at most shape and dtype."""
    info = op_info(name)
    return slice(1, None) if info.overwrites else slice(1) if info.first_alone else slice(None)


def is_concat(name: str) -> bool:
    """Whether a merge puts its operands next to each other instead of adding them."""
    return op_info(name).combine in ("concat", "write", "choose")


def classify(name: str, data: tuple[int, ...], *, learned: bool, float_steered: bool) -> Kind:
    """The kind of an operator.

    Args:
        name: as given by `operator_name`.
        data: positions, among the operator's flattened tensor operands, of those that carry data.
        learned: whether an operand without data was computed from a parameter.
        float_steered: whether an operand without data was computed from real-valued data, as a mask or an index.
            Choosing by it is a nonlinearity: `where(x > 0, x, 0)` and `x * (x > 0)` are ReLUs.
    """
    info = op_info(name)
    kind = info.kind
    if kind == "weight":
        if len(data) > 1:
            return "product"
        # a product with a fixed matrix is linear and weight-free: a Fourier or resampling matrix
        return "weight" if learned or info.embedding else "resample"
    if is_scale(name) and len(data) == 1:
        # constant / data does not scale the data
        kind = "activation" if info.division and data[0] > 0 else "resample"
    if kind == "merge" and len(data) == 1:
        # adding a constant shifts the values; concatenating one pads them
        kind = "resample" if is_concat(name) or name == "rsub" else "view"
    if len(data) > 1 and info.combine in ("write", "choose", "scatter_add") and not float_steered:
        return "merge"
    return "activation" if float_steered and kind in ("view", "resample", "expand") else kind
