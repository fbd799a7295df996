"""The table of operators: what each one does to its operands. Ask it by `skiplab.graph.ops.op_info`.

Names are those of `operator_name`: without overload and in-place underscore. tests/graph/test_op_table.py compares the
table with torch's own schemas and tags.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

Kind = Literal[
    "input",
    "weight",  # multiplies data with a learned weight: convolution, linear, embedding
    "recurrent",  # a weight layer with activations inside: LSTM, GRU
    "activation",  # elementwise or softmax nonlinearity
    "max_pool",
    "batch_norm",  # linear in eval mode
    "norm",  # nonlinear: divides by a statistic of the same sample
    "product",  # of two data tensors: attention, gates
    "merge",  # two or more data tensors added or concatenated
    "view",  # the same values, perhaps reordered or shifted by a constant
    "resample",  # weight-free linear: slice, pad, average, upsample, scale
    "expand",  # linear, but repeats values
    "other",
]
Combine = Literal[
    "concat",  # operands next to each other
    "write",  # the first operand, with a part of it replaced by the second
    "choose",  # each entry from one operand or the other
    "scatter_add",  # the first operand, with the second added to a part of it
]
WriteBack = Literal["reshape", "same", "permute", "movedim", "narrow", "slice", "select", "diagonal"]


@dataclass(frozen=True, slots=True)
class OpInfo:
    """What an operator does to its operands. The defaults are those of an unknown operator.

    Attributes:
        kind: what it does to one data operand; `classify` refines it by what the operands carry.
        combine: how it joins two data operands, unless it adds or multiplies them.
        gate: whether it bounds its values, so that its result can weight another signal: "usual", or "possible" for one
            that often is a plain activation.
        write_back: for a view, how a write to it reaches the viewed tensor: reshaped, by the same operator again, by
            the inverse permutation, or by the scatter operator of a part.
        split_dim: for a split, the position of its argument `dim`; None where it has none.

        value_independent: its result does not depend on its operands' values, only on shape, dtype, device or chance.
        first_alone: it reads the values of its first operand alone; another one gives shape or dtype.
        overwrites: the values of its first operand do not matter.
        zeros: its result is zero everywhere.
        random: it draws random numbers.
        dropout: it drops entries while its argument `train` is on.
        cast: it changes the dtype, not the values.
        reshape: the same entries in the same order.
        shape_in_place: its in-place form changes the shape, not the values.
        slice: one contiguous or strided part of its operand.
        split: several parts of its operand, which share no entry.
        even_split: a split into parts of one size, numbered in order.
        elementwise: each entry is a function of the same entry of one data operand.
        zero_at_zero: elementwise and 0 at 0; for a clamp or threshold with the usual bounds.
        idempotent: applied again it changes nothing.
        softmax: positive weights that sum to one along a dimension, or their logarithm.
        gated_cell: a recurrent layer whose state passes each step by a gate: all steps at once, or a single one.
        embedding: looks up rows of a weight by integers.
        convolution: one of torch's convolutions, transposed ones included.
        transposed: a transposed convolution.
        matrix_product: of two operands, of which either may be the weight.
        contraction: sums products of its operands' entries, as matrix products, convolutions and attention do.
        multiplication: entry by entry.
        division: entry by entry.
        negation: the factor −1.
        raises_resolution: its result can have more positions than its operand.
        running_statistics: it updates `running_mean` and `running_var` in training.
    """

    kind: Kind = "other"
    combine: Combine | None = None
    gate: Literal["usual", "possible"] | None = None
    write_back: WriteBack | None = None
    split_dim: int | None = None
    value_independent: bool = False
    first_alone: bool = False
    overwrites: bool = False
    zeros: bool = False
    random: bool = False
    dropout: bool = False
    cast: bool = False
    reshape: bool = False
    shape_in_place: bool = False
    slice: bool = False
    split: bool = False
    even_split: bool = False
    elementwise: bool = False
    zero_at_zero: bool = False
    idempotent: bool = False
    softmax: bool = False
    gated_cell: Literal["all steps", "one step"] | None = None
    embedding: bool = False
    convolution: bool = False
    transposed: bool = False
    matrix_product: bool = False
    contraction: bool = False
    multiplication: bool = False
    division: bool = False
    negation: bool = False
    raises_resolution: bool = False
    running_statistics: bool = False


_KINDS: dict[Kind, str] = {
    "weight": """
        conv1d conv2d conv3d convolution _convolution conv_transpose1d conv_transpose2d conv_transpose3d
        conv_tbc linear bilinear mm addmm bmm baddbmm matmul mv dot einsum embedding embedding_bag tensordot
        inner kron chain_matmul linalg_multi_dot
    """,
    "recurrent": "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell",
    "activation": """
        relu relu6 leaky_relu elu selu celu gelu silu mish hardtanh hardswish hardsigmoid sigmoid log_sigmoid
        log_sigmoid_forward tanh softplus softmax _softmax log_softmax _log_softmax _safe_softmax prelu
        _prelu_kernel rrelu threshold clamp clamp_min clamp_max clip abs exp exp2 expm1 log log2 log10 log1p sin
        cos tan asin acos atan atan2 sinh cosh asinh acosh atanh sqrt rsqrt reciprocal pow square sign sgn erf
        erfc erfinv round floor ceil trunc frac hardshrink softshrink logsumexp logaddexp maximum minimum fmax
        fmin gt lt ge le eq ne sinc logit heaviside remainder fmod isnan isinf nan_to_num xlogy cumprod prod
    """,
    "max_pool": """
        max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
        adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d amax amin max min
        median aminmax
    """,
    "norm": """
        layer_norm native_layer_norm group_norm native_group_norm instance_norm rms_norm _fused_rms_norm var std
        var_mean std_mean norm linalg_vector_norm linalg_norm frobenius_norm renorm cosine_similarity cdist
        pairwise_distance
    """,
    "batch_norm": """
        batch_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
        cudnn_batch_norm miopen_batch_norm _batch_norm_with_update
    """,
    "product": """
        mul multiply div divide true_divide scaled_dot_product_attention cross outer ger
        _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention glu
        _native_multi_head_attention grid_sampler grid_sampler_2d grid_sampler_3d cartesian_prod hypot
    """,
    "merge": "add sub rsub subtract cat concat concatenate stack hstack vstack dstack",
    "view": """
        view _unsafe_view reshape reshape_as view_as flatten unflatten squeeze unsqueeze permute transpose t
        numpy_T mT adjoint movedim swapaxes swapdims moveaxis contiguous clone alias detach to _to_copy type_as
        lift_fresh lift_fresh_copy copy roll flip fliplr flipud rot90 channel_shuffle pixel_shuffle
        pixel_unshuffle native_channel_shuffle dropout feature_dropout alpha_dropout feature_alpha_dropout
        native_dropout view_as_real view_as_complex _conj conj resolve_conj resolve_neg unsafe_split
        unsafe_split_with_sizes unsafe_chunk split split_with_sizes chunk unbind tensor_split hsplit vsplit dsplit
        positive requires_grad _reshape_alias view_copy atleast_1d atleast_2d atleast_3d ravel
    """,
    "resample": """
        slice select narrow index index_select gather take_along_dim take diagonal tril triu pad constant_pad_nd
        reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
        avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d
        adaptive_avg_pool3d mean sum nansum cumsum diff neg negative upsample_nearest1d upsample_nearest2d
        upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
        upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa
        _upsample_bicubic2d_aa im2col col2im unfold masked_fill masked_scatter where slice_scatter
        select_scatter diagonal_scatter index_put _unsafe_index_put index_add index_copy index_fill scatter
        scatter_add scatter_reduce masked_select real imag fft_fft fft_ifft fft_rfft fft_irfft fft_fft2
        fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn _fft_r2c _fft_c2c _fft_c2r trapezoid as_strided
        unfold_copy trace
    """,
    "expand": "expand expand_as repeat repeat_interleave tile broadcast_to broadcast_tensors meshgrid",
}

_COMBINE: dict[Combine, str] = {
    "concat": "cat concat concatenate stack hstack vstack dstack",
    "write": "slice_scatter select_scatter diagonal_scatter index_put _unsafe_index_put index_copy scatter",
    "choose": "where masked_scatter",
    "scatter_add": "index_add scatter_add",
}
_GATE: dict[Literal["usual", "possible"], str] = {
    "usual": "sigmoid hardsigmoid softmax _softmax _safe_softmax exp relu6 hardtanh clamp",  # `exp` in a scan's decay
    "possible": "tanh",
}
_WRITE_BACK: dict[WriteBack, str] = {
    "reshape": """
        view _unsafe_view reshape flatten unflatten squeeze unsqueeze contiguous to alias view_as reshape_as
        _reshape_alias detach ravel positive expand_as type_as dropout feature_dropout alpha_dropout
        feature_alpha_dropout atleast_1d atleast_2d atleast_3d
    """,
    "same": "transpose t swapaxes swapdims numpy_T mT",
    **{name: name for name in ("permute", "movedim", "narrow", "slice", "select", "diagonal")},
}
_GATED_CELL: dict[Literal["all steps", "one step"], str] = {
    "all steps": "lstm gru",
    "one step": "lstm_cell gru_cell",
}
_SPLIT_DIM = {1: "unbind", 2: "split split_with_sizes chunk tensor_split unsafe_split unsafe_chunk"}

_CONVOLUTIONS = "conv1d conv2d conv3d"
_TRANSPOSED = "conv_transpose1d conv_transpose2d conv_transpose3d"
_DROPOUTS = "dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout"
_FLAGS: dict[str, str] = {
    "value_independent": """
        sym_size sym_numel sym_stride sym_storage_offset size numel new_zeros new_ones new_empty new_full
        new_empty_strided zeros_like ones_like full_like empty_like rand_like randn_like randint_like empty_strided zero
        fill bernoulli uniform normal_functional exponential is_floating_point is_complex dim _assert_tensor_metadata
        _assert_scalar _assert_async scalar_tensor geometric cauchy log_normal random
    """,
    "first_alone": "type_as view_as reshape_as expand_as to",
    "overwrites": "copy",
    "zeros": "zeros new_zeros zeros_like",
    "random": f"""
        rand randn randint randperm rand_like randn_like randint_like bernoulli uniform normal normal_functional
        exponential geometric cauchy log_normal random multinomial poisson {_DROPOUTS} rrelu
    """,
    "dropout": _DROPOUTS,
    "cast": "to _to_copy type_as",
    "reshape": """
        view _unsafe_view reshape flatten unflatten squeeze unsqueeze contiguous clone to _to_copy alias view_as
        reshape_as _reshape_alias detach ravel positive type_as atleast_1d atleast_2d atleast_3d
    """,
    "shape_in_place": "squeeze unsqueeze t transpose swapaxes swapdims",
    "slice": "slice select narrow",
    "split": """
        split split_with_sizes chunk unbind tensor_split hsplit vsplit dsplit unsafe_split unsafe_split_with_sizes
        unsafe_chunk
    """,
    "even_split": "unbind split chunk unsafe_split unsafe_chunk",
    "elementwise": """
        relu relu6 leaky_relu elu selu celu gelu silu mish hardtanh hardswish hardsigmoid sigmoid log_sigmoid tanh
        softplus prelu _prelu_kernel rrelu threshold clamp clamp_min clamp_max clip abs exp exp2 expm1 log log2 log10
        log1p sin cos tan asin acos atan sinh cosh asinh acosh atanh sqrt rsqrt reciprocal square sign sgn erf erfc
        erfinv round floor ceil trunc frac hardshrink softshrink sinc logit nan_to_num
    """,
    "zero_at_zero": """
        relu relu6 leaky_relu elu selu celu gelu silu mish hardtanh hardswish tanh prelu _prelu_kernel rrelu threshold
        clamp clamp_min clamp_max clip abs expm1 log1p sin tan asin atan sinh asinh atanh sqrt square sign sgn erf
        erfinv round floor ceil trunc frac hardshrink softshrink nan_to_num
    """,
    "idempotent": "relu relu6 hardtanh abs",
    "softmax": "softmax _softmax _safe_softmax log_softmax _log_softmax",
    "embedding": "embedding embedding_bag",
    "convolution": f"{_CONVOLUTIONS} {_TRANSPOSED}",
    "transposed": _TRANSPOSED,
    "matrix_product": "matmul mm bmm einsum",
    "contraction": f"""
        {_CONVOLUTIONS} {_TRANSPOSED} convolution _convolution conv_tbc linear bilinear mm addmm bmm baddbmm matmul mv
        dot einsum tensordot inner kron chain_matmul linalg_multi_dot scaled_dot_product_attention
        _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention
    """,
    "multiplication": "mul multiply",
    "division": "div divide true_divide",
    "negation": "neg negative",
    "raises_resolution": f"""
        {_TRANSPOSED} upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
        _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d
        upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa pixel_shuffle max_unpool2d max_unpool3d col2im
    """,
    "running_statistics": f"{_KINDS['batch_norm']} instance_norm",
}


def _table() -> dict[str, OpInfo]:
    fields: dict[str, dict[str, Any]] = {}
    columns: dict[str, Mapping[Any, str]] = {
        "kind": _KINDS,
        "combine": _COMBINE,
        "gate": _GATE,
        "write_back": _WRITE_BACK,
        "split_dim": _SPLIT_DIM,
        "gated_cell": _GATED_CELL,
        **{flag: {True: names} for flag, names in _FLAGS.items()},
    }
    for field, rows in columns.items():
        for value, names in rows.items():
            for name in names.split():
                fields.setdefault(name, {})[field] = value
    return {name: OpInfo(**values) for name, values in fields.items()}


TABLE: Mapping[str, OpInfo] = MappingProxyType(_table())
