"""Turn an `nn.Module` into a `Program` with `torch.export`; the module does not change."""

import contextlib
import dataclasses
import logging
import math
import traceback
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from skiplab.errors import CaptureError, ModelError, format_shape
from skiplab.graph.build import program_of
from skiplab.graph.differences import largest_difference
from skiplab.graph.export import exported_parts
from skiplab.graph.graph_parts import GraphParts
from skiplab.graph.inputs import Inputs, as_arguments
from skiplab.graph.interpreter import run
from skiplab.graph.outputs import flatten_output
from skiplab.graph.program import Program
from skiplab.graph.record import recorded_parts
from skiplab.graph.rng import reseed
from skiplab.graph.shape_errors import explain
from skiplab.graph.torch_compat import pytree
from skiplab.graph.train_only import train_only
from skiplab.graph.unchanged import Snapshot, unchanged
from skiplab.graph.unwrap import unwrap
from skiplab.validation import require_one_of

How = Literal["auto", "record", "export"]
_ADVICE = (
    ("data-dependent", "the shape or path depends on the data's values: take that decision out of `forward`"),
    ("Could not guard", "a branch depends on the data's values: take that decision out of `forward`"),
    ("item()", "`.item()` in `forward` makes the graph depend on the data's values"),
    ("torch.nn.DataParallel", "capture `model.module` instead of the parallel wrapper"),
    ("ScriptModule", "capture the original module, not the scripted one"),
)
_GENERAL_ADVICE = "try the same inputs with `torch.export.export(model, inputs, strict=False)`, or capture a submodule"


def capture(
    model: nn.Module,
    inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    train: bool = False,
    how: How = "auto",
) -> Program:
    """Captures `model` on example inputs.

    The graph has the operators as written, before decomposition, with in-place operators made functional. The batch
    size stays free where the model allows it: an example of one sample is repeated, since torch takes a size of 1 as
    fixed. The call changes neither the model (mode, buffers, gradients, hooks) nor torch's random state.

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
    require_one_of("how", how, get_args(How))
    model, (args, named) = unwrap(model), as_arguments(inputs)
    example = args, {**named, **(kwargs or {})}
    on_meta = _on_meta(model, example)
    # on meta, tensors that `forward` makes without a device must be there too
    with (
        unchanged(model, train=train) as before,
        _quiet(),
        torch.device("meta") if on_meta else contextlib.nullcontext(),
    ):
        # a model without values cannot run where `forward` reads a mask; tracing does not read it
        reference = None if on_meta else _run_model(model, example, before)
        program = program_of(_parts(model, example, how, before), type(model).__name__, example)
        absent = () if train else train_only(model, program)
        program = dataclasses.replace(program, training=train, train_only=absent)
        return program if on_meta else dataclasses.replace(program, difference=_difference(program, reference))


def _parts(model: nn.Module, example: Inputs, how: How, before: Snapshot) -> GraphParts:
    """The graph by the way that is asked for; "auto" records, and exports what cannot be recorded."""
    failures: list[Exception] = []
    ways = {"record": lambda: recorded_parts(model, example, before), "export": lambda: exported_parts(model, example)}
    for way, parts in ways.items():
        if how in ("auto", way):
            try:
                return parts()
            except CaptureError:
                raise
            except Exception as error:
                failures.append(error)
    failure = failures[-1]
    text = str(failure)
    advice = next((advice for word, advice in _ADVICE if word in text), _GENERAL_ADVICE)
    raise CaptureError(
        f"cannot capture {type(model).__name__}, in {_place(model, failure)}: {_one_line(failure)}; {advice}"
    ) from failure


def _on_meta(model: nn.Module, example: Inputs) -> bool:
    tensors = (*model.parameters(), *model.buffers(), *pytree.tree_leaves(example))
    return any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in tensors)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences torch.export's warnings and logs about its internals; errors are still raised."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _run_model(model: nn.Module, example: Inputs, before: Snapshot) -> Any:
    args, kwargs = pytree.tree_map_only(Tensor, torch.clone, example)  # the model may overwrite them
    reseed()
    try:
        with torch.no_grad():
            return model(*args, **kwargs)
    except Exception as error:
        place = _place(model, error)
        raise ModelError(
            f"{type(model).__name__} fails on inputs {_shapes(example)} in {place}: {_one_line(error)}{explain(error)}"
        ) from error
    finally:
        before.restore()


def _difference(program: Program, reference: Any) -> float:
    wanted = [leaf for leaf in flatten_output(reference)[0] if isinstance(leaf, Tensor)]
    if any(leaf.is_meta for leaf in wanted):
        return math.nan
    reseed()
    with torch.no_grad():
        try:
            output = run(program, *program.example[0], **program.example[1])
        except Exception:  # the example is a batch of one, and the graph does not take it
            return math.nan
    got = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    return max((largest_difference(a, b) for a, b in zip(got, wanted, strict=True)), default=math.nan)


def _place(model: nn.Module, error: BaseException) -> str:
    """The innermost module in the traceback whose `forward` was running, with the line."""
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


def _shapes(example: Inputs) -> str:
    leaves = pytree.tree_leaves(example)
    return ", ".join(format_shape(x.shape) if isinstance(x, Tensor) else repr(x) for x in leaves)
