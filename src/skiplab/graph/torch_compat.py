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
from torch._dynamo.eval_frame import OptimizedModule
from torch._dynamo.source import ConstantSource
from torch._ops import OpOverload
from torch._subclasses import FakeTensor, FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.fx.proxy import TracerBase
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "DataDependentOutputException",
    "DynamicOutputShapeException",
    "FakeTensor",
    "FakeTensorMode",
    "OpOverload",
    "OptimizedModule",
    "TorchDispatchMode",
    "WeakStorage",
    "below_autograd",
    "distinct_dropout_outputs",
    "exporting",
    "fresh_alias",
    "is_mutable",
    "lazy_graph_module",
    "out_of_place",
    "pytree",
    "schema_of",
    "storage_id",
    "symbolic_size",
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


class WeakStorage:
    """A reference to a tensor's memory that does not keep it alive.

    The address of a storage alone does not identify it, since memory that is freed is used again.
    """

    __slots__ = ("_address",)

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self._address = storage._weak_ref()

    def expired(self) -> bool:
        """Whether the memory has been freed."""
        return bool(torch.UntypedStorage._expired(self._address))

    def __del__(self, free: Any = torch.UntypedStorage._free_weak_ref) -> None:  # torch may be gone by then
        free(self._address)


def _key_set(*names: str) -> Any:
    keys = torch._C.DispatchKeySet(getattr(DispatchKey, names[0]))
    for name in names[1:]:
        keys = keys | torch._C.DispatchKeySet(getattr(DispatchKey, name))
    return keys


def below_autograd() -> Any:
    """A context in which operators that autograd would take apart reach a dispatch mode whole.

    `inference_mode` does so too, but leaves tensors in the model's caches that no training can use.
    """
    keys = _key_set("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor", "ADInplaceOrView")
    return torch._C._ExcludeDispatchKeyGuard(keys)


def fresh_alias(tensor: Tensor) -> Tensor:
    """Another tensor on the same memory, and no view for autograd, whose `detach_` would refuse it."""
    with torch._C._ExcludeDispatchKeyGuard(_key_set("ADInplaceOrView")):
        return torch.ops.aten.alias.default(tensor)


def out_of_place(target: Any) -> Any:
    """The overload that returns what `target` writes into `out`; None where there is none."""
    packet = target._overloadpacket
    wanted = [str(argument.type) for argument in target._schema.arguments if not argument.is_out]
    for name in packet.overloads():
        found = getattr(packet, name)
        arguments = [str(argument.type) for argument in found._schema.arguments]
        if not found._schema.is_mutable and arguments == wanted:
            return found
    return None


def symbolic_size(name: str, example: int) -> tuple[FakeTensorMode, torch.SymInt]:
    """A size that varies, with its value in the example, and a mode for fake tensors that have it."""
    environment = ShapeEnv()
    symbol = environment.create_symbol(
        example, source=ConstantSource(name), dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None
    )
    size = environment.create_symintnode(symbol, hint=example)
    assert isinstance(size, torch.SymInt)
    return FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True), size


def lazy_graph_module(root: torch.nn.Module, graph: torch.fx.Graph) -> torch.fx.GraphModule:
    """A module of a graph that writes its Python code when it is first called, which an interpreter never does."""
    return _LazyGraphModule(root, graph)


@contextlib.contextmanager
def exporting(state: bool = True) -> Iterator[None]:
    """While the block runs, `torch.compiler.is_compiling()` and `is_exporting()` are true, or false."""
    before = torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag
    torch.compiler._is_compiling_flag = torch.compiler._is_exporting_flag = state
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag = before
