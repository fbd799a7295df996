"""Turn an `nn.Module` into a `Program` with `torch.export`, and leave the module exactly as it was."""

import contextlib
import dataclasses
import inspect
import io
import logging
import math
import traceback
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DispatchKey
from torch.export import Dim, ExportedProgram
from torch.fx.proxy import TracerBase
from torch.utils import _pytree as pytree

from skiplab.errors import CaptureError, ModelError, UsageError
from skiplab.graph.differences import largest_difference
from skiplab.graph.interpreter import run
from skiplab.graph.program import Program, from_exported
from skiplab.graph.shape_errors import explain
from skiplab.graph.train_only import train_only

_ADVICE = (
    ("data-dependent", "the shape or path depends on the data's values: take that decision out of `forward`"),
    ("Could not guard", "a branch depends on the data's values: take that decision out of `forward`"),
    ("item()", "`.item()` in `forward` makes the graph depend on the data's values"),
    ("torch.nn.DataParallel", "capture `model.module` instead of the parallel wrapper"),
    ("ScriptModule", "capture the original module, not the scripted one"),
)
_RETURN_WHAT_THEY_READ = [
    torch.ops.aten.feature_dropout.default,
    torch.ops.aten.alpha_dropout.default,
    torch.ops.aten.feature_alpha_dropout.default,
]
_GENERAL_ADVICE = "try the same inputs with `torch.export.export(model, inputs, strict=False)`, or capture a submodule"


def capture(
    model: nn.Module,
    inputs: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    train: bool = False,
) -> Program:
    """Captures `model` on example inputs.

    The graph is as written, before decomposition, with in-place operators made functional. The batch size
    stays free where the model allows it: an example of one sample is repeated, since a size of 1 would be
    taken as fixed. Mode, buffers, gradients, hooks and random state of the model and of torch are the same
    after the call as before it.

    A model on the meta device, whose tensors have no values, is captured there; `difference` is then NaN.

    Args:
        model: any module that `torch.export` (non-strict) can trace.
        inputs: positional arguments of `forward`; tensors with the batch as first dimension.
        kwargs: keyword arguments of `forward`.
        train: capture the training graph (batch statistics, dropout) instead of the inference graph.

    Raises:
        ModelError: the model itself fails on these inputs.
        CaptureError: the model runs, but `torch.export` cannot trace it.
    """
    example = (tuple(inputs), dict(kwargs or {}))
    on_meta = _on_meta(model, example)
    # on meta, what `forward` makes without naming a device has to be there too
    with _unchanged(model, train), _quiet(), torch.device("meta") if on_meta else contextlib.nullcontext():
        # without values it cannot run by itself where it looks at a mask's, which tracing does not
        reference = None if on_meta else _run_model(model, example)
        graph, dynamic = exported(model, example)
        program = from_exported(graph, type(model).__name__, example)
        lost = () if train else train_only(model, program)
        program = dataclasses.replace(program, training=train, dynamic_batch=dynamic, train_only=lost)
        return program if on_meta else dataclasses.replace(program, difference=_difference(program, reference))


def _on_meta(model: nn.Module, example: tuple[tuple, dict]) -> bool:
    tensors = (*model.parameters(), *model.buffers(), *pytree.tree_leaves(example))
    return any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in tensors)


@contextlib.contextmanager
def _unchanged(model: nn.Module, train: bool) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with _buffers_kept(model), torch.random.fork_rng(devices=devices):
            _set_mode(model, train)
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _set_mode(model: nn.Module, train: bool) -> None:
    """As `model.train` does, which a program that torch has loaded refuses: its operators have the mode in them."""
    try:
        model.train(train)
    except NotImplementedError:
        if train:
            raise UsageError("an exported program has no training graph: export it in training mode") from None


@contextlib.contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards, the same tensors are the buffers, with the same values."""
    kept = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in kept:
                # equal bits need no write, and a buffer that is inference-mode or expanded takes none
                if not _same(buffer, value):
                    buffer.copy_(value)
                module._buffers[name] = buffer


def seed() -> None:
    """The same random numbers for model and graph; `torch.manual_seed` would also seed a CUDA to come."""
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.is_meta or (a.shape == b.shape and torch.equal(a, b))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.export warns and logs about its own internals; an error says all that matters to the user."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _run_model(model: nn.Module, example: tuple[tuple, dict]) -> Any:
    args, kwargs = pytree.tree_map_only(Tensor, torch.clone, example)  # the model may overwrite them
    seed()
    try:
        with torch.no_grad(), _buffers_kept(model):
            return model(*args, **kwargs)
    except Exception as error:
        place = _place(model, error)
        raise ModelError(
            f"{type(model).__name__} fails on inputs {_shapes(example)} in {place}: {_one_line(error)}{explain(error)}"
        ) from error


def exported(model: nn.Module, example: tuple[tuple, dict]) -> tuple[ExportedProgram, bool]:
    """Exports with a free batch size, or failing that with the sizes of the example."""
    widened = _widened(example)
    failure: Exception | None = None
    for (args, kwargs), free in ((widened, True), (example, False)):
        try:
            seed()
            shapes = _free_batch(model, args, kwargs) if free else None
            # a failing export prints the graph that it got stuck in
            with _whole_traces(), _dropouts_apart(), contextlib.redirect_stderr(io.StringIO()):
                graph = torch.export.export(model, args, kwargs, strict=False, dynamic_shapes=shapes)
        except Exception as error:
            failure = error
            continue
        dynamic = free and bool(graph.range_constraints)
        if dynamic or args is example[0]:  # else the graph is specialised to the repeated batch
            return graph, dynamic
    assert failure is not None
    text = str(failure)
    advice = next((say for word, say in _ADVICE if word in text), _GENERAL_ADVICE)
    raise CaptureError(
        f"cannot capture {type(model).__name__}, in {_place(model, failure)}: {_one_line(failure)}; {advice}"
    ) from failure


@contextlib.contextmanager
def _dropouts_apart() -> Iterator[None]:
    """Keeps apart what a dropout reads and what it gives, while the block runs.

    One that is not active returns the very tensor that it was given, and the tracer would then take everything that
    reads this tensor later for a reader of the dropout: once the dropout is active, in `Program.module`, it would act
    on the shortcut past it too. Of `dropout` itself torch has such a kernel.
    """
    key = DispatchKey.CompositeImplicitAutograd
    without = [op for op in _RETURN_WHAT_THEY_READ if key not in op.py_kernels]

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
def _whole_traces() -> Iterator[None]:
    """Keeps all frames that led to an operator while the block runs.

    The tracer drops those of functions that are not called `forward`, and it is in one of these that a merge may
    stand: then its line would be that of the call. Where a torch has no such filter, lines are as torch gives them.
    """
    tracer, name = TracerBase, "_filter_traceback_frames"
    kept = getattr(tracer, name, None)
    if kept is None:
        yield
        return

    def below_forward(_: Any, summary: traceback.StackSummary) -> traceback.StackSummary:
        first = next((i for i, frame in enumerate(summary) if frame.name == "forward"), len(summary))
        return traceback.StackSummary.from_list(summary[first:])

    setattr(tracer, name, below_forward)
    try:
        yield
    finally:
        setattr(tracer, name, kept)


def _widened(example: tuple[tuple, dict]) -> tuple[tuple, dict]:
    """A batch of one repeated to two, where every tensor is a batch of one."""
    tensors = [leaf for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor)]
    if not tensors or any(t.ndim == 0 or t.shape[0] != 1 for t in tensors):
        return example
    return pytree.tree_map_only(Tensor, lambda t: torch.cat([t, t]), example)


def _free_batch(model: nn.Module, args: tuple, kwargs: dict) -> dict[str, Any]:
    """`dynamic_shapes` for `torch.export`: by the names of `forward`'s parameters."""
    arguments = inspect.signature(model.forward).bind(*args, **kwargs).arguments

    def free(leaf: Any) -> Any:
        return {0: Dim.AUTO} if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] > 1 else None

    return pytree.tree_map(free, dict(arguments))


def _difference(program: Program, reference: Any) -> float:
    wanted = [leaf for leaf in pytree.tree_leaves(reference) if isinstance(leaf, Tensor)]
    if any(leaf.is_meta for leaf in wanted):
        return math.nan
    seed()
    with torch.no_grad():
        try:
            output = run(program, *program.example[0], **program.example[1])
        except Exception:  # a graph that does not take a batch of one, which the example is
            return math.nan
    got = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    return max((largest_difference(a, b) for a, b in zip(got, wanted, strict=True)), default=math.nan)


def _place(model: nn.Module, error: BaseException) -> str:
    """The innermost module whose `forward` was running, with its line, read off the traceback's frames."""
    names = {id(module): name for name, module in model.named_modules()}
    place = "its `forward`"
    for frame, line in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if id(owner) in names and frame.f_code.co_name == "forward":
            name = names[id(owner)] or type(model).__name__
            place = f"`{name}` ({frame.f_code.co_filename}:{line})"
    return place


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300].rstrip(".") if lines else type(error).__name__


def _shapes(example: tuple[tuple, dict]) -> str:
    leaves = pytree.tree_leaves(example)
    return ", ".join("x".join(map(str, x.shape)) if isinstance(x, Tensor) else repr(x) for x in leaves)
