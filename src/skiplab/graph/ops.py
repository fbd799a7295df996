"""What each ATen operator does to the data that passes through it.

One question is answered here: given an operator and which of its operands carry data, is it a weight layer,
an activation, a view, …? Everything above (finding skips, counting paths) speaks in these kinds only.
"""

from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal[
    "input",
    "weight",  # multiplies data with a learned weight: convolution, linear, embedding
    "recurrent",  # a weight layer with activations inside: LSTM, GRU
    "activation",  # elementwise or softmax nonlinearity
    "max_pool",
    "batch_norm",  # linear in eval mode
    "norm",  # nonlinear: divides by a statistic of the very sample
    "product",  # of two data tensors: attention, gates
    "merge",  # two or more data tensors added or concatenated
    "view",  # the same values, perhaps reordered or shifted by a constant
    "resample",  # weight-free linear: slice, pad, average, upsample, scale
    "expand",  # linear, but repeats values, so that no longer one value meets one value
    "other",
]


@dataclass(frozen=True, slots=True)
class Op:
    """One step of the data flow: an operator through which data passes, or an input.

    Attributes:
        index: position in `Program.ops`, which is in order of execution.
        name: name of the node in the graph.
        target: the operator, without overload or in-place underscore: "conv2d", "relu", "add".
        kind: what the operator does to data; see `Kind`.
        inputs: indices of the operands that carry data, in argument order.
        module: path of the module in whose `forward` it stands; "" for the root.
        source: "file:line" of the call, as absolute path; None where the graph does not know.
        shape: its value's shape; None for a dimension that varies, () also for values that are no tensor.
        weights: names of the parameters with which it was computed.
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


# What the walk along a shortcut may cross (DESIGN §2); a weight layer only once.
TRANSPARENT: tuple[Kind, ...] = ("view", "resample", "batch_norm")
WEIGHT_LAYERS: tuple[Kind, ...] = ("weight", "recurrent")
LINEAR: tuple[Kind, ...] = (*TRANSPARENT, "input", "weight", "merge", "expand")

_WEIGHT = """conv1d conv2d conv3d convolution _convolution conv_transpose1d conv_transpose2d conv_transpose3d
 conv_tbc linear bilinear mm addmm bmm baddbmm matmul mv dot einsum embedding embedding_bag tensordot inner kron
 chain_matmul linalg_multi_dot"""

_RECURRENT = "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"

_ACTIVATION = """relu relu6 leaky_relu elu selu celu gelu silu mish hardtanh hardswish hardsigmoid sigmoid
 log_sigmoid log_sigmoid_forward tanh softplus softmax _softmax log_softmax _log_softmax _safe_softmax
  prelu _prelu_kernel rrelu threshold clamp clamp_min clamp_max clip abs exp exp2 expm1 log log2 log10
 log1p sin cos tan asin acos atan atan2 sinh cosh asinh acosh atanh sqrt rsqrt reciprocal pow square sign sgn
 erf erfc erfinv round floor ceil trunc frac hardshrink softshrink logsumexp logaddexp maximum
 minimum fmax fmin gt lt ge le eq ne sinc logit heaviside remainder fmod isnan isinf nan_to_num xlogy cumprod
 prod"""

_MAX_POOL = """max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices
 max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d
 amax amin max min median aminmax"""

_NORM = """layer_norm native_layer_norm group_norm native_group_norm instance_norm rms_norm _fused_rms_norm
 var std var_mean std_mean norm linalg_vector_norm linalg_norm frobenius_norm renorm
 cosine_similarity cdist pairwise_distance"""

_BATCH_NORM = """batch_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
 cudnn_batch_norm miopen_batch_norm _batch_norm_with_update"""

_PRODUCT = """mul multiply div divide true_divide scaled_dot_product_attention cross outer ger
 _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention glu
 _native_multi_head_attention grid_sampler grid_sampler_2d grid_sampler_3d cartesian_prod hypot"""

_MERGE = "add sub rsub subtract cat concat concatenate stack hstack vstack dstack"

_VIEW = """view _unsafe_view reshape reshape_as view_as flatten unflatten squeeze unsqueeze permute transpose t
 numpy_T mT adjoint movedim swapaxes swapdims moveaxis contiguous clone alias detach detach_ to _to_copy
 type_as     lift_fresh lift_fresh_copy copy roll flip fliplr flipud rot90 channel_shuffle
 pixel_shuffle pixel_unshuffle native_channel_shuffle dropout feature_dropout alpha_dropout
 feature_alpha_dropout native_dropout view_as_real view_as_complex _conj conj resolve_conj resolve_neg
 unsafe_split unsafe_chunk split split_with_sizes chunk unbind tensor_split hsplit vsplit dsplit positive
 requires_grad_ _reshape_alias view_copy atleast_1d atleast_2d atleast_3d ravel"""

_RESAMPLE = """slice select narrow index index_select gather take_along_dim take diagonal tril triu pad
 constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
 replication_pad3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
 _adaptive_avg_pool2d adaptive_avg_pool3d mean sum nansum cumsum diff neg negative upsample_nearest1d
 upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d upsample_linear1d
 upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
 im2col col2im unfold masked_fill masked_scatter where slice_scatter select_scatter diagonal_scatter
 index_put _unsafe_index_put index_add index_copy index_fill scatter scatter_add scatter_reduce
 masked_select real imag fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn
 fft_ifftn _fft_r2c _fft_c2c _fft_c2r trapezoid as_strided unfold_copy trace"""

_EXPAND = "expand expand_as repeat repeat_interleave tile broadcast_to broadcast_tensors meshgrid"

# The result has nothing to do with the operand's values, only with its shape, dtype or device.
_VALUE_INDEPENDENT = """sym_size sym_numel sym_stride sym_storage_offset size numel new_zeros new_ones new_empty
 new_full new_empty_strided zeros_like ones_like full_like empty_like rand_like randn_like randint_like
 empty_strided zero fill bernoulli uniform normal_functional exponential is_floating_point is_complex dim
 _assert_tensor_metadata _assert_scalar _assert_async scalar_tensor geometric"""

# The second operand gives a shape or dtype and no values; `to` takes one too.
_SHAPED_LIKE = frozenset("type_as view_as reshape_as expand_as to".split())

_KINDS: dict[str, Kind] = {}
_TABLE: tuple[tuple[str, Kind], ...] = (
    (_WEIGHT, "weight"),
    (_RECURRENT, "recurrent"),
    (_ACTIVATION, "activation"),
    (_MAX_POOL, "max_pool"),
    (_NORM, "norm"),
    (_BATCH_NORM, "batch_norm"),
    (_PRODUCT, "product"),
    (_MERGE, "merge"),
    (_VIEW, "view"),
    (_RESAMPLE, "resample"),
    (_EXPAND, "expand"),
)
for _names, _kind in _TABLE:
    _KINDS |= dict.fromkeys(_names.split(), _kind)
_IGNORED = frozenset(_VALUE_INDEPENDENT.split())

_CONCAT = frozenset("cat concat concatenate stack hstack vstack dstack".split())
# Values of one operand written between those of another: side by side, as a concatenation is.
_INTERLEAVE = frozenset(
    "slice_scatter select_scatter diagonal_scatter index_put _unsafe_index_put index_copy scatter where "
    "masked_scatter".split()
)
_SCATTERED_ADD = frozenset("index_add scatter_add".split())
_RAISING = ("upsample", "_upsample", "conv_transpose", "pixel_shuffle", "max_unpool", "col2im")
DIVISIONS = frozenset("div divide true_divide".split())
SCALES = DIVISIONS | {"mul", "multiply"}


def operator_name(target: object) -> str:
    """`aten.relu.default` and its in-place twin `relu_` are "relu"; what is no ATen operator keeps its name."""
    if isinstance(target, torch._ops.OpOverload):
        name = target._schema.name.split("::")[-1]
        return name.removesuffix("_") if target._schema.is_mutable else name
    return getattr(target, "__name__", str(target))


def is_value_independent(name: str) -> bool:
    """Whether an operator reads no values of its operands: shapes, `new_zeros`, random numbers."""
    return name in _IGNORED


def is_zero(name: str, zeros: list[bool]) -> bool:
    """Whether an operator gives nothing but zeros, by which of its tensor operands are known to be that."""
    if name in ("zeros", "new_zeros", "zeros_like"):
        return True
    kind = _KINDS.get(name)
    return any(zeros) if name in ("mul", "multiply") else kind in ("view", "resample", "expand") and zeros == [True]


def raises_resolution(name: str) -> bool:
    """Whether an operator gives more positions than it takes."""
    return name.startswith(_RAISING)


def keeps_whole(name: str, position: int) -> bool:
    """Whether a merge has all entries of the operand at a position: what is written into something replaces a part."""
    return name not in _INTERLEAVE or (position > 0 and name not in ("where", "masked_scatter"))


def read_operands(name: str) -> slice:
    """Which tensor operands an operator reads values of, where it does not read all: of some, only shape or dtype."""
    if name == "copy":
        return slice(1, None)  # what is overwritten leaves no trace
    return slice(1) if name in _SHAPED_LIKE else slice(None)


def is_concat(name: str) -> bool:
    """Whether a merge joins its operands side by side instead of adding them."""
    return name in _CONCAT or name in _INTERLEAVE


def classify(name: str, data: tuple[int, ...], *, learned: bool, float_steered: bool) -> Kind:
    """The kind of an operator.

    Args:
        name: as given by `operator_name`.
        data: positions, among the operator's flattened tensor operands, of those that carry data.
        learned: whether an operand without data was computed from a parameter.
        float_steered: whether an operand that carries no data was computed from real-valued data, as a mask
            or an index: choosing by it is a nonlinearity (`where(x > 0, x, 0)` and `x * (x > 0)` are ReLUs).
    """
    kind = _KINDS.get(name, "other")
    if kind == "weight":
        if len(data) > 1:
            return "product"
        # A product with a fixed matrix is linear and weight-free: a Fourier or resampling matrix.
        return "weight" if learned or name.startswith("embedding") else "resample"
    if name in SCALES and len(data) == 1:
        # constant / data is no scaling
        kind = "activation" if name in DIVISIONS and data[0] > 0 else "resample"
    if kind == "merge" and len(data) == 1:
        # Adding a constant shifts the values; concatenating one pads them.
        kind = "resample" if is_concat(name) or name == "rsub" else "view"
    if len(data) > 1 and name in _INTERLEAVE | _SCATTERED_ADD and not float_steered:
        return "merge"
    return "activation" if float_steered and kind in ("view", "resample", "expand") else kind
