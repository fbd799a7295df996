"""The program of a command on data: captured on samples of the data, with its skips and batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skiplab.cli.app import print_message
from skiplab.cli.model_options import ModelOptions, select, too_large, warn_about
from skiplab.errors import DataError, ModelError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from skiplab.analysis.skips import Skips
    from skiplab.data.sources import Batches, DataRequest
    from skiplab.data.sources.examples import Examples
    from skiplab.data.sources.streams import Stream
    from skiplab.graph.program import Program


@dataclass(frozen=True)
class MeasuredProgram:
    """A program with its skips and the data to measure on.

    Attributes:
        program: the captured model.
        skips: the selected skips in the graph.
        batches: batches for the program.
        source: the data of the batches.
        targets: all targets if the data are in memory, else those of the first batch; None without targets.
    """

    program: "Program"
    skips: "Skips"
    batches: "Batches"
    source: "Examples | Stream"
    targets: Any


def prepare(model: ModelOptions, data_request: "DataRequest", device: str, pattern: str | None) -> MeasuredProgram:
    """Captures the model and opens the data.

    Args:
        model: the model.
        data_request: the data.
        device: device to run on.
        pattern: skips to measure, by id or path; None for all.

    Raises, before the work starts:
        UsageError: `--meta`, or `pattern` selects no skip.
        ModelError: the model cannot be built or captured.
        DataError: the data cannot be read, or the model does not take them.
    """
    if model.meta:
        raise UsageError("measures need values: leave out --meta")
    from skiplab.analysis.finder import find
    from skiplab.data.sources import batches, open_source
    from skiplab.data.sources.examples import Examples

    source = open_source(data_request)
    program = _capture(model, source, device)
    skips = find(program).in_graph()
    chosen = skips if pattern is None else select(skips, pattern)
    loader = batches(program, source, data_request)
    _report_samples(source, data_request)
    if not program.dynamic_batch:
        print_message(f"note: {program.name} takes one batch size only; an incomplete last batch is left out")
    return MeasuredProgram(
        program, chosen, loader, source, source.y if isinstance(source, Examples) else _first_target(loader)
    )


def _first_target(batches: "Batches") -> Any:
    first = next(iter(batches), None)
    if first is None:
        raise DataError("no batches: the data are empty")
    return first[1]


def _capture(model: ModelOptions, source: "Examples | Stream", device: str) -> "Program":
    """Captures the model on samples of the data, or on its own inputs if --input is given or the data are images."""
    import torch
    from torch import Tensor

    from skiplab.graph.capture import capture
    from skiplab.graph.torch_compat import pytree
    from skiplab.loading import example_inputs
    from skiplab.loading.resolve import quiet
    from skiplab.training.fit import fabric_on

    target = fabric_on(device).device
    example = None if model.inputs or model.img_size else source.example()
    torch.manual_seed(model.seed)
    resolved = model.resolved(() if example is None else ("1",))  # a placeholder: the samples replace it
    if resolved.meta:
        raise too_large(model.spec, "measures")
    args, kwargs = resolved.args, resolved.kwargs
    if example is not None:
        args, kwargs = example_inputs.as_arguments(_cast_like_weights(example, resolved.model))
    args, kwargs = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(target), (args, kwargs))
    try:
        with quiet():
            program = capture(resolved.model.to(target), args, kwargs, train=model.train)
    except ModelError as error:
        if example is None or type(error) is not ModelError:
            raise
        raise DataError(
            f"{model.spec} does not take the samples of {source.name}: {str(error).splitlines()[0]}; "
            + suggest_options(getattr(example, "shape", ())[1:])
        ) from error
    _print_notes(model, program)
    return program


def _cast_like_weights(example: Any, model: "nn.Module") -> Any:
    """The example with floating-point tensors in the dtype of the model's weights."""
    from torch import Tensor

    from skiplab.graph.torch_compat import pytree

    dtype = next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), None)
    return pytree.tree_map_only(
        Tensor, lambda tensor: tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor, example
    )


def suggest_options(shape: Sequence[int], classes: int | None = None) -> str:
    """A fix for a model that does not take samples of `shape` (without the batch) with this number of classes."""
    options = [] if classes is None else [f"--num-classes {classes}"]
    if len(shape) == 3:
        options.append(f"--in-channels {shape[0]}")
    return f"build it with {' '.join(options) or '--kwargs'}, or give other data"


def _print_notes(model: ModelOptions, program: "Program") -> None:
    from skiplab.loading.libraries import LIBRARIES

    library = model.spec.partition(":")[0] in LIBRARIES
    if model.weights is None and (library or ":" not in model.spec) and not model.spec.endswith(".pt2"):
        print_message(f"note: {model.spec} has random initial weights; --weights FILE loads trained ones")
    warn_about(program)


def _report_samples(source: "Examples | Stream", data_request: "DataRequest") -> None:
    from skiplab.data.sources.examples import Examples

    if not isinstance(source, Examples):
        if data_request.samples:
            print_message(
                f"note: at most the first {data_request.samples} samples of {source.name} are used; --samples 0 uses "
                "all"
            )
        return
    part = f" ({source.part})" if source.part else ""
    if source.part in ("train", "training") and data_request.split is None:
        print_message(f"note: {source.name} has only the part {source.part}, on which the model may have been trained")
    if len(source) < source.total:
        print_message(
            f"note: {len(source)} of {source.total:,} samples of {source.name}{part}, drawn at random, are used; "
            "--samples 0 uses all"
        )
