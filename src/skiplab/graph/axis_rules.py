"""The effect of operators on the axes of their operands, one rule per kind of operator; see `skiplab.graph.layout`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.graph.axes import Axes, Axis, Dim, Role, holds, leaves, regrouped, resized, size, unify
from skiplab.graph.ops import operator_name


@dataclass(frozen=True, eq=False)
class Call:
    """One operator, and one of its results.

    Attributes:
        axes: the dimensions of the values before it.
        node: the operator.
        sizes: sizes of its result; a number stands for a size that varies.
        index: number of the result, if there are several.
    """

    axes: Axes
    node: Node
    sizes: list[int]
    index: int = 0

    @property
    def first(self) -> list[Dim]:
        """The dimensions of the first operand; empty if it carries no data."""
        return (self.axes.of(self.node.args[0]) if self.node.args else None) or []

    @property
    def operands(self) -> list[list[Dim]]:
        """The dimensions of all operands that carry data."""
        return [dims for each in self.node.all_input_nodes if (dims := self.axes.of(each)) is not None]

    def argument(self, *names: str) -> Any:
        """The value of the first argument with one of these names, or its default."""
        schema = getattr(self.node.target, "_schema", None)
        for place, argument in enumerate(schema.arguments if schema is not None else ()):
            if argument.name in names:
                args = self.node.args
                given = args[place] if place < len(args) else self.node.kwargs.get(argument.name)
                return argument.default_value if given is None else given
        return None

    def of(self, *names: str) -> list[Dim] | None:
        """The dimensions of that argument; None if it carries no data."""
        return self.axes.of(self.argument(*names))

    def place(self, rank: int, name: str = "dim") -> int:
        """The dimension that an argument gives, counted from the front."""
        return int(self.argument(name)) % rank


Rule = Callable[[Call], list[Dim] | None]  # the dimensions of the result; None where the rule does not apply


def dimensions(call: Call) -> list[Dim]:
    """The dimensions of an operator's result; new ones of unknown role where no rule applies."""
    dims = _RULES.get(operator_name(call.node.target), _elementwise)(call)
    if dims is None or [size(dim) for dim in dims] != call.sizes:
        return [call.axes.fresh(each) for each in call.sizes]
    return dims


# Elementwise operators, and others that keep the order of dimensions


def _elementwise(call: Call) -> list[Dim] | None:
    """Operands are aligned at the last dimension; corresponding dimensions share their axes."""
    operands, rank = call.operands, len(call.sizes)
    if not operands:
        return None
    found = []
    for back, new in zip(range(rank, 0, -1), call.sizes, strict=True):
        there = [dims[-back] for dims in operands if len(dims) >= back]
        meeting = [dim for dim in there if size(dim) == new]
        for other in meeting[1:]:
            unify(meeting[0], other)
        changed = resized(there[0], new) if len(operands[0]) == rank else call.axes.fresh(new)
        found.append(meeting[0] if meeting else changed)
    return found


def _in_place(call: Call) -> list[Dim] | None:
    """The result has the dimensions of the first operand, perhaps with other sizes."""
    if len(call.first) != len(call.sizes):
        return None
    return [resized(dim, new) for dim, new in zip(call.first, call.sizes, strict=True)]


def _channels_second(call: Call) -> list[Dim] | None:
    """Norms of channels, pooling, upsampling."""
    _read_image(call)
    return _in_place(call)


def _read_image(call: Call) -> tuple[bool, int]:
    """Sets the roles of an operand (N, C, *positions), or (C, *positions).

    Returns whether these roles fit, and the dimension of the channels. They do not fit if another dimension is known to
    hold channels.
    """
    axes, dims = call.axes, call.first
    digit = re.search(r"(\d)d", operator_name(call.node.target))
    at = 0 if digit and len(dims) == int(digit[1]) + 1 else 1
    if len(dims) <= at:
        return False, at
    axes.learn(() if at == 0 else dims[0], "samples")
    if _mixes_positions(dims, at):
        axes.learn(dims[at], "positions")
        return False, at
    axes.learn(dims[at], "channels")
    for dim in dims[at + 1 :]:
        axes.learn(dim, "positions")
    return True, at


def _mixes_positions(dims: Sequence[Dim], at: int) -> bool:
    """Whether the dimension that an operator mixes holds positions, since another one is known to hold channels."""
    elsewhere = (dim for i, dim in enumerate(dims) if i != at)
    return not holds(dims[at], "channels") and size(dims[at]) > 1 and any(holds(dim, "channels") for dim in elsewhere)


def _channels_last(call: Call) -> list[Dim] | None:
    """Norms over the last dimension alone."""
    over, dims = call.argument("normalized_shape"), call.first
    if dims and isinstance(over, (list, tuple)) and len(over) == 1 and not _mixes_positions(dims, len(dims) - 1):
        call.axes.learn(dims[-1], "channels")
    return _in_place(call)


# Layers


def _made(role: Role, new: int) -> Dim:
    axis = Axis(new)
    axis.learn(role)
    return (axis,)


def _mixed(call: Call, dims: Sequence[Dim], at: int) -> Dim:
    """The last dimension of the result of a weight: channels, or positions if the weight mixes positions."""
    role: Role = "positions" if _mixes_positions(dims, at) else "channels"
    call.axes.learn(dims[at], role)
    return _made(role, call.sizes[-1])


def _conv(call: Call) -> list[Dim] | None:
    """The kernel slides over positions."""
    images, at = _read_image(call)
    found = _in_place(call)
    if not found or len(found) <= at:
        return None
    found[at] = _made("channels" if images else "positions", call.sizes[at])
    for i in range(at + 1, len(found)):
        if images and holds(found[i], "channels"):
            found[i] = _made("positions", call.sizes[i])
    return found


def _conv_tbc(call: Call) -> list[Dim] | None:
    """(T, N, C)."""
    if len(call.first) != 3:
        return None
    steps, batch, channels = call.first
    call.axes.claim(batch, steps)
    call.axes.learn(channels, "channels")
    return [resized(steps, call.sizes[0]), batch, _made("channels", call.sizes[2])]


def _linear(call: Call) -> list[Dim] | None:
    dims = call.first
    return [*dims[:-1], _mixed(call, dims, len(dims) - 1)] if dims else None


def _embedding(call: Call) -> list[Dim] | None:
    ids = call.of("indices")
    return None if ids is None else [*ids, _made("channels", call.sizes[-1])]


def _embedding_bag(call: Call) -> list[Dim] | None:
    ids = call.of("indices")
    return [resized(ids[0], call.sizes[0]), _made("channels", call.sizes[1])] if ids and call.index == 0 else None


def _recurrent(call: Call) -> list[Dim] | None:
    """(N, T, C) with `batch_first`, else (T, N, C); states are (layers, N, C)."""
    dims = call.first
    if len(dims) != 3:
        return None
    batch = 0 if call.argument("batch_first") else 1
    call.axes.claim(dims[batch], dims[1 - batch])
    call.axes.learn(dims[2], "channels")
    for state in call.operands[1:]:
        unify(dims[batch], state[1])
        call.axes.learn(state[2], "channels")
    new = _made("channels", call.sizes[2])
    return [*dims[:2], new] if call.index == 0 else [call.axes.fresh(call.sizes[0]), dims[batch], new]


# Products


def _matmul(call: Call) -> list[Dim] | None:
    """(…, n, m) times (…, m, p); a matrix without data is a weight."""
    added = operator_name(call.node.target) in ("addmm", "baddbmm", "addmv")  # added to the product
    a = call.of("mat1", "batch1", "mat") if added else call.of("self", "input")
    b = call.of("mat2", "batch2", "other", "vec", "tensor")
    if a and b:
        return _product(a, b)
    if a:
        made = _mixed(call, a, len(a) - 1) if call.sizes else ()
        return [*a[:-1], made] if len(call.sizes) == len(a) else a[:-1]
    if b and len(b) == len(call.sizes) > 1:
        return [*b[:-2], (Axis(call.sizes[-2], like=leaves(b[-2])[0]),), b[-1]]
    return None


def _product(a: list[Dim], b: list[Dim]) -> list[Dim]:
    unify(a[-1], b[-2] if len(b) > 1 else b[0])
    if len(a) == 1 or len(b) == 1:
        return [*a[:-1], *b[:-2], *b[-1:]] if len(b) > 1 else a[:-1]
    batch = []
    for back in range(max(len(a), len(b)), 2, -1):
        there = [dims[-back] for dims in (a, b) if len(dims) >= back]
        if len(there) == 2 and size(there[0]) == size(there[1]):
            unify(*there)
        batch.append(max(there, key=size))
    return [*batch, a[-2], b[-1]]


def _einsum(call: Call) -> list[Dim] | None:
    """Letters are dimensions. A letter of the weight alone is a new dimension of channels."""
    equation, operands = call.node.args[:2]
    if not isinstance(equation, str) or not isinstance(operands, (list, tuple)) or "->" not in equation:
        return None
    left, result = equation.replace(" ", "").split("->")
    known: dict[str, Dim] = {}
    for letters, operand in zip(left.split(","), operands, strict=True):
        dims = call.axes.of(operand) or []
        for letter, dim in zip(_letters(letters, len(dims)) if dims else [], dims, strict=True):
            unify(known.setdefault(letter, dim), dim)
    pairs = zip(_letters(result, len(call.sizes)), call.sizes, strict=True)
    return [known[letter] if letter in known else _made("channels", new) for letter, new in pairs]


def _letters(text: str, rank: int) -> list[str]:
    """One letter per dimension; the dimensions of an ellipsis are numbered from the last."""
    before, dots, after = text.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *(f".{i}" for i in range(hidden, 0, -1)), *after]


def _attention(call: Call) -> list[Dim] | None:
    """(N, …, positions, C): positions of the query, channels of the value."""
    query, key, value = (call.of(name) for name in ("query", "key", "value"))
    for dims in (query, key, value):
        if dims is not None and len(dims) > 2:
            call.axes.claim(dims[0], dims[-2])
            call.axes.learn(dims[-1], "channels")
    if query is None or value is None or call.index:
        return None
    if key is not None:
        unify(key[-2], value[-2])
    for mine, its in zip(query[:-2], value[:-2], strict=False):
        if size(mine) == size(its):
            unify(mine, its)
    return [*query[:-1], value[-1]]


# Views


def _moved(call: Call) -> list[Dim] | None:
    """Finds the permutation with a tensor whose sizes are the numbers of its dimensions."""
    numbered = torch.empty(tuple(range(len(call.first))), device="meta")
    moved: Tensor = call.node.target(numbered, *call.node.args[1:], **call.node.kwargs)  # type: ignore[operator]
    return [call.first[place] for place in moved.shape] if call.first else None


def _reshaped(call: Call) -> list[Dim] | None:
    """Regroups axes. Where they do not divide into the new sizes, each new dimension has the roles of all of them."""
    dims = call.first
    found = regrouped(dims, call.sizes)
    if found is None:
        held = [axis for dim in dims for axis in leaves(dim) if axis.size > 1]
        same = len({axis.role for axis in held}) == 1 and held[0].role is not None
        return [(Axis(new, like=held[0]),) for new in call.sizes] if same else None
    return found


def _unsqueezed(call: Call) -> list[Dim] | None:
    dims, at = call.first, call.place(len(call.sizes))
    return [*dims[:at], (Axis(1),), *dims[at:]]


def _squeezed(call: Call) -> list[Dim] | None:
    gone = _named(call, len(call.first))
    return [dim for i, dim in enumerate(call.first) if i not in gone or size(dim) != 1]


def _named(call: Call, rank: int) -> set[int]:
    """The dimensions that an operator works on; all by default."""
    over = call.argument("dim", "dims", "axis")
    among = range(rank) if over is None or over == [] else [over] if isinstance(over, int) else over
    return {at % rank for at in among} if rank else set()


def _real(call: Call) -> list[Dim] | None:
    """The real and imaginary part get a dimension of their own."""
    return [*call.first, (Axis(2, like=leaves(call.first[-1])[0]),)] if call.first else None


def _complex(call: Call) -> list[Dim] | None:
    return call.first[:-1]


# Parts and concatenations


def _without(call: Call) -> list[Dim] | None:
    """One entry along a dimension: `select`, each result of `unbind`."""
    if not call.first:
        return None
    at = call.place(len(call.first))
    return [*call.first[:at], *call.first[at + 1 :]]


def _reduced(call: Call) -> list[Dim] | None:
    """A sum, mean or largest value over some dimensions, which are left out or of size 1."""
    if len(call.first) == len(call.sizes):
        return _in_place(call)
    gone = _named(call, len(call.first))
    return [dim for i, dim in enumerate(call.first) if i not in gone]


def _result(call: Call) -> list[Dim] | None:
    source, index = call.node.args
    return call.axes.values.get(f"{source.name}:{index}") if isinstance(source, Node) else None


def _indexed(call: Call) -> list[Dim] | None:
    """`x[:, indices]`: a list of indices replaces its dimension."""
    dims, indices = call.first, call.node.args[1]
    given = {i: each for i, each in enumerate(indices) if isinstance(each, Node)}  # type: ignore[arg-type]
    at, end = min(given, default=0), max(given, default=0) + 1
    if not dims or len(given) != end - at or {each.meta["val"].ndim for each in given.values()} != {1}:
        return None
    return [*dims[:at], resized(dims[at], call.sizes[at]), *dims[end:]]


def _joined(call: Call) -> list[Dim] | None:
    """Operands of `cat` share their axes in all dimensions except the concatenated one."""
    parts = [dims for dims in call.operands if len(dims) == len(call.sizes)]
    if not parts:
        return None
    at, first = call.place(len(call.sizes)), parts[0]
    for dims in parts[1:]:
        for i, (mine, its) in enumerate(zip(first, dims, strict=True)):
            if i != at and size(mine) == size(its):
                unify(mine, its)
    known = next((dims[at] for dims in parts if any(axis.role for axis in leaves(dims[at]))), first[at])
    return [*first[:at], resized(known, call.sizes[at]), *first[at + 1 :]]


def _stacked(call: Call) -> list[Dim] | None:
    parts = [dims for dims in call.operands if len(dims) == len(call.sizes) - 1]
    if not parts:
        return None
    for dims in parts[1:]:
        for mine, its in zip(parts[0], dims, strict=True):
            unify(mine, its)
    at = call.place(len(call.sizes))
    return [*parts[0][:at], call.axes.fresh(call.sizes[at]), *parts[0][at:]]


def _expanded(call: Call) -> list[Dim] | None:
    """The axis of the repeats comes before the repeated axis."""
    missing = len(call.sizes) - len(call.first)
    found = [call.axes.fresh(new) for new in call.sizes[:missing]]
    for dim, new in zip(call.first, call.sizes[missing:], strict=True):
        repeated = size(dim) > 1 and new % size(dim) == 0
        more = (Axis(new // size(dim)), *dim) if repeated else call.axes.fresh(new)
        found.append(dim if size(dim) == new else more)
    return found


def _interleaved(call: Call) -> list[Dim] | None:
    """`repeat_interleave`: the axis of the repeats comes after the repeated axis."""
    if len(call.first) != len(call.sizes):
        return None
    pairs = zip(call.first, call.sizes, strict=True)
    return [dim if size(dim) == new else (*dim, Axis(new // max(size(dim), 1))) for dim, new in pairs]


def _windows(call: Call) -> list[Dim] | None:
    """`Tensor.unfold`: windows along a dimension, the entries of each in a new last one."""
    if not call.first:
        return None
    at = call.place(len(call.first), "dimension")
    like = leaves(call.first[at])[0]
    return [*call.first[:at], (Axis(call.sizes[at], like),), *call.first[at + 1 :], (Axis(call.sizes[-1], like),)]


def _columns(call: Call) -> list[Dim] | None:
    """`im2col`: (N, C, *positions) as (N, C · kernel, positions), and back."""
    if len(call.first) < 3:
        return None
    _read_image(call)
    return [call.first[0], _made("channels", call.sizes[1]), *(_made("positions", new) for new in call.sizes[2:])]


_TABLE: tuple[tuple[Rule, str], ...] = (
    (
        _in_place,
        """grid_sampler grid_sampler_2d grid_sampler_3d gather take_along_dim index_select index_add index_copy
 index_fill scatter scatter_add scatter_reduce slice narrow split split_with_sizes chunk tensor_split unsafe_split
 unsafe_chunk hsplit vsplit dsplit slice_scatter select_scatter diagonal_scatter index_put _unsafe_index_put pad
 constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
 replication_pad3d glu""",
    ),
    (
        _channels_second,
        """batch_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm
 _batch_norm_with_update group_norm native_group_norm instance_norm pixel_shuffle pixel_unshuffle channel_shuffle
 native_channel_shuffle upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
 _upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
 _upsample_bilinear2d_aa _upsample_bicubic2d_aa max_pool1d max_pool2d max_pool3d max_pool1d_with_indices
 max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
 adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
 adaptive_max_pool3d fractional_max_pool2d""",
    ),
    (_channels_last, "layer_norm native_layer_norm rms_norm _fused_rms_norm"),
    (_conv, "conv1d conv2d conv3d convolution _convolution conv_transpose1d conv_transpose2d conv_transpose3d"),
    (_conv_tbc, "conv_tbc"),
    (_linear, "linear bilinear lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"),
    (_embedding, "embedding"),
    (_embedding_bag, "embedding_bag"),
    (_recurrent, "lstm gru rnn_tanh rnn_relu"),
    (_matmul, "matmul mm bmm mv addmm baddbmm addmv dot"),
    (_einsum, "einsum"),
    (
        _attention,
        """scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu
 _scaled_dot_product_efficient_attention""",
    ),
    (_moved, "permute transpose t numpy_T mT adjoint movedim moveaxis swapaxes swapdims"),
    (
        _reshaped,
        """view _unsafe_view reshape reshape_as view_as flatten unflatten ravel _reshape_alias view_copy atleast_1d
 atleast_2d atleast_3d""",
    ),
    (_unsqueezed, "unsqueeze"),
    (_squeezed, "squeeze"),
    (_real, "view_as_real"),
    (_complex, "view_as_complex"),
    (_without, "select unbind"),
    (
        _reduced,
        """mean sum nansum prod var std var_mean std_mean norm linalg_vector_norm linalg_norm logsumexp amax amin max
 min median aminmax argmax argmin any all count_nonzero""",
    ),
    (_result, "getitem"),
    (_indexed, "index"),
    (_joined, "cat concat concatenate"),
    (_stacked, "stack"),
    (_expanded, "expand expand_as repeat tile broadcast_to"),
    (_interleaved, "repeat_interleave"),
    (_windows, "unfold unfold_copy"),
    (_columns, "im2col col2im"),
)
_RULES: dict[str, Rule] = {name: rule for rule, names in _TABLE for name in names.split()}
