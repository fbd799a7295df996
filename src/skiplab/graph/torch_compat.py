"""The private parts of torch that Skiplab relies on.

tests/graph/test_torch_compat.py names the versions of torch they were tried on, and checks them on the installed one.
"""

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch._subclasses import FakeTensor, FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.proxy import TracerBase
from torch.utils import _pytree as pytree

__all__ = [
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "FakeTensor",
    "FakeTensorMode",
    "OpOverload",
    "distinct_dropout_outputs",
    "is_mutable",
    "pytree",
    "schema_of",
    "storage_id",
    "whole_stack_traces",
]

# An inactive one of these returns its operand itself. `dropout` has a kernel of torch's own against that.
_RETURN_THEIR_OPERAND = [
    torch.ops.aten.feature_dropout.default,
    torch.ops.aten.alpha_dropout.default,
    torch.ops.aten.feature_alpha_dropout.default,
]


def schema_of(target: object) -> Any:
    """The schema of an operator (`torch.FunctionSchema`); None for any other callable."""
    return getattr(target, "_schema", None)


def is_mutable(target: object) -> bool:
    """Whether an operator's schema declares that it writes to an operand."""
    schema = schema_of(target)
    return schema is not None and schema.is_mutable


def storage_id(tensor: Tensor) -> int:
    """The same number for tensors that share memory; fake tensors included."""
    return tensor.untyped_storage()._cdata


@contextlib.contextmanager
def distinct_dropout_outputs() -> Iterator[None]:
    """While the block runs, a traced dropout gives another tensor than its operand.

    An inactive dropout returns its operand, so the tracer takes all later readers of this operand for readers of the
    dropout. Once the dropout is active, in `Program.module`, it would then act on the shortcut past it too.
    """
    key = DispatchKey.CompositeImplicitAutograd
    without = [op for op in _RETURN_THEIR_OPERAND if key not in op.py_kernels]

    def kernel(op: Any) -> Any:
        return lambda x, p, train: op._op_dk(key, x, p, train) if train and p else x.clone()

    for op in without:
        op.py_impl(key)(kernel(op))
    try:
        yield
    finally:
        for op in without:
            del op.py_kernels[key]
            op._dispatch_cache.clear()


@contextlib.contextmanager
def whole_stack_traces() -> Iterator[None]:
    """While the block runs, the tracer keeps all frames below the first `forward`.

    By default it drops functions of other names. A merge in a helper function would then get the line of the helper's
    call. A torch without this filter keeps its own lines.
    """
    tracer, name = TracerBase, "_filter_traceback_frames"
    original = getattr(tracer, name, None)
    if original is None:
        yield
        return

    def below_forward(_: Any, summary: traceback.StackSummary) -> traceback.StackSummary:
        first = next((i for i, frame in enumerate(summary) if frame.name == "forward"), len(summary))
        return traceback.StackSummary.from_list(summary[first:])

    setattr(tracer, name, below_forward)
    try:
        yield
    finally:
        setattr(tracer, name, original)
