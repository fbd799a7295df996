"""The model of a command, captured on an example of its data and on the chosen device, with its skips and batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skiplab.cli.app import print_message
from skiplab.cli.model_options import ModelOptions, warn_about
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
    """A program with the skips and batches of a command.

    Attributes:
        source: where the batches come from.
        targets: all targets if the data are in memory, else those of the first batch; None without targets.
    """

    program: "Program"
    skips: "Skips"
    batches: "Batches"
    source: "Examples | Stream"
    targets: Any


def prepare(model: ModelOptions, data_request: "DataRequest", device: str, pattern: str | None) -> MeasuredProgram:
    """Captures the model and opens the data; raises for every error in the options before the long work."""
    if model.meta:
        raise UsageError("measures need the network's values: leave out --meta")
    from skiplab.analysis.finder import find
    from skiplab.data.sources import batches, open_source
    from skiplab.data.sources.examples import Examples

    source = open_source(data_request)
    program = _capture(model, source, device)
    skips = find(program).in_graph()
    if pattern is not None and not len(skips.at(pattern)):
        some = ", ".join(skip.id for skip in skips[:5]) or "none"
        raise UsageError(f"--skips {pattern} selects none of {len(skips)} skips ({some}): see skiplab find")
    chosen = skips if pattern is None else skips.at(pattern)
    drawn = batches(program, source, data_request)
    _report_samples(source, data_request)
    if not program.dynamic_batch:
        print_message(f"note: {program.name} takes batches of one size only; the rest of the data is left out")
    return MeasuredProgram(
        program, chosen, drawn, source, source.y if isinstance(source, Examples) else _first_target(drawn)
    )


def _first_target(drawn: "Batches") -> Any:
    first = next(iter(drawn), None)
    if first is None:
        raise DataError("there is no batch to measure on: the iterable of batches is empty or used up")
    return first[1]


def _capture(model: ModelOptions, source: "Examples | Stream", device: str) -> "Program":
    """Captured on an example of the data, unless --input gives shapes or the data adapt to the model."""
    import torch
    from torch import Tensor

    from skiplab.graph.capture import capture
    from skiplab.graph.torch_compat import pytree
    from skiplab.loading import example_inputs
    from skiplab.loading.resolve import quiet
    from skiplab.training.fit import fabric_on

    place = fabric_on(device).device
    example = None if model.inputs or model.img_size else source.example()
    torch.manual_seed(model.seed)
    resolved = model.resolved(() if example is None else ("1",))  # the example replaces this input
    if resolved.meta:
        raise ModelError(f"{model.spec} does not fit into memory, and measures need its values: use a smaller one")
    args, kwargs = resolved.args, resolved.kwargs
    if example is not None:
        args, kwargs = example_inputs.as_arguments(_as_weights(example, resolved.model))
    args, kwargs = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(place), (args, kwargs))
    try:
        with quiet():
            program = capture(resolved.model.to(place), args, kwargs, train=model.train)
    except ModelError as error:
        if example is None or type(error) is not ModelError:
            raise
        raise DataError(
            f"{model.spec} does not take the data of {source.name}: {str(error).splitlines()[0]}; "
            + suggest_options(getattr(example, "shape", ())[1:])
        ) from error
    _print_notes(model, program)
    return program


def _as_weights(example: Any, model: "nn.Module") -> Any:
    """The example with real numbers in the precision of the model's weights."""
    from torch import Tensor

    from skiplab.graph.torch_compat import pytree

    kind = next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), None)
    return pytree.tree_map_only(
        Tensor, lambda tensor: tensor.to(kind) if kind and tensor.is_floating_point() else tensor, example
    )


def suggest_options(shape: Sequence[int], classes: int | None = None) -> str:
    """Options that build the model for samples of `shape` (without the batch) and this number of classes."""
    options = [] if classes is None else [f"--num-classes {classes}"]
    if len(shape) == 3:
        options.append(f"--in-channels {shape[0]}")
    return f"build it for them with {' '.join(options) or '--kwargs'}, or give other data"


def _print_notes(model: ModelOptions, program: "Program") -> None:
    from skiplab.loading.libraries import LIBRARIES

    library = model.spec.partition(":")[0] in LIBRARIES
    if model.weights is None and (library or ":" not in model.spec) and not model.spec.endswith(".pt2"):
        print_message(f"note: {model.spec} has its initial, random weights; --weights FILE loads trained ones")
    warn_about(program)


def _report_samples(source: "Examples | Stream", data_request: "DataRequest") -> None:
    from skiplab.data.sources.examples import Examples

    if not isinstance(source, Examples):
        if data_request.samples:
            print_message(
                f"note: at most the first {data_request.samples} samples of {source.name}; --samples 0 takes all"
            )
        return
    part = f" ({source.part})" if source.part else ""
    if source.part in ("train", "training") and data_request.split is None:
        print_message(f"note: {source.name} has only the part {source.part}, which the model may have been trained on")
    if len(source) < source.total:
        print_message(
            f"note: {len(source)} of {source.total:,} samples of {source.name}{part}, drawn at random; "
            "--samples 0 takes all"
        )
