"""The model of a command, captured on an example of its data and on the chosen device, with its skips and batches."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skiplab.cli.app import say
from skiplab.cli.model_options import Request, keywords, say_doubts
from skiplab.errors import DataError, ModelError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from skiplab.analysis.skips import Skips
    from skiplab.data.sources import Asked, Batches
    from skiplab.data.sources.examples import Examples
    from skiplab.data.sources.streams import Stream
    from skiplab.graph.program import Program


@dataclass(frozen=True)
class Subject:
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


def subject(request: Request, asked: "Asked", device: str, pattern: str | None) -> Subject:
    """Captures the model and opens the data; raises every error of the request before the long work."""
    if request.meta:
        raise UsageError("measures need the network's values: leave out --meta")
    from skiplab.analysis.finder import find
    from skiplab.data.sources import batches, opened
    from skiplab.data.sources.examples import Examples

    source = opened(asked)
    program = _captured(request, source, device)
    skips = find(program).in_graph()
    if pattern is not None and not len(skips.at(pattern)):
        some = ", ".join(skip.id for skip in skips[:5]) or "none"
        raise UsageError(f"--skips {pattern} selects none of {len(skips)} skips ({some}): see skiplab find")
    chosen = skips if pattern is None else skips.at(pattern)
    drawn = batches(program, source, asked)
    _report_samples(source, asked)
    if not program.dynamic_batch:
        say(f"note: {program.name} takes batches of one size only; the rest of the data is left out")
    return Subject(program, chosen, drawn, source, source.y if isinstance(source, Examples) else _first_target(drawn))


def _first_target(drawn: "Batches") -> Any:
    first = next(iter(drawn), None)
    if first is None:
        raise DataError("there is no batch to measure on: the iterable of batches is empty or used up")
    return first[1]


def _captured(request: Request, source: "Examples | Stream", device: str) -> "Program":
    """Captured on an example of the data, unless --input gives shapes or the data adapt to the model."""
    options = keywords(request.kwargs)
    import torch
    from torch import Tensor

    from skiplab.graph.capture import capture
    from skiplab.graph.torch_compat import pytree
    from skiplab.loading import example_inputs
    from skiplab.loading.resolve import quiet, resolve
    from skiplab.training.fit import fabric_on

    place = fabric_on(device).device
    example = None if request.inputs else source.example()
    torch.manual_seed(request.seed)
    shapes = request.inputs or (() if example is None else ("1",))  # the data give the shape
    resolved = resolve(request.model, shapes, options, request.weights, request.trust, meta=False)
    if resolved.meta:
        raise ModelError(f"{request.model} does not fit into memory, and measures need its values: use a smaller one")
    args, kwargs = resolved.args, resolved.kwargs
    if example is not None:
        args, kwargs = example_inputs.returned(_typed(example, resolved.model))
    args, kwargs = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(place), (args, kwargs))
    try:
        with quiet():
            program = capture(resolved.model.to(place), args, kwargs, train=request.train)
    except ModelError as error:
        if example is None or type(error) is not ModelError:
            raise
        raise DataError(
            f"{request.model} does not take the data of {source.name}: {str(error).splitlines()[0]}; "
            + suggest_kwargs(request, getattr(example, "shape", ())[1:])
        ) from error
    _notes(request, program)
    return program


def _typed(example: Any, model: "nn.Module") -> Any:
    """The example with real numbers in the precision of the model's weights."""
    from torch import Tensor

    from skiplab.graph.torch_compat import pytree

    kind = next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), None)
    return pytree.tree_map_only(
        Tensor, lambda tensor: tensor.to(kind) if kind and tensor.is_floating_point() else tensor, example
    )


def suggest_kwargs(request: Request, shape: Sequence[int], classes: int | None = None) -> str:
    """How to build the model for examples of `shape` (without the batch) and this number of classes.

    The names are those of our models and of timm; a user's callable may have others.
    """
    wanted = {} if classes is None else {"num_classes": classes}
    what = [] if classes is None else [f"{classes} classes"]
    if len(shape) == 3:
        wanted["in_chans" if request.model.startswith("timm:") else "in_channels"] = shape[0]
        what.append(f"{shape[0]} channel{'s' * (shape[0] != 1)} of {shape[1]}x{shape[2]}")
    if not wanted:
        return "build it for them with --kwargs, or give other data"
    options = json.dumps(keywords(request.kwargs) | wanted)
    return f"build it for {' and '.join(what)}, such as with --kwargs '{options}', or give other data"


def _notes(request: Request, program: "Program") -> None:
    library = request.model.partition(":")[0] in ("timm", "torchvision", "transformers")
    if request.weights is None and (library or ":" not in request.model) and not request.model.endswith(".pt2"):
        say(f"note: {request.model} has its initial, random weights; --weights FILE loads trained ones")
    say_doubts(program)


def _report_samples(source: "Examples | Stream", asked: "Asked") -> None:
    from skiplab.data.sources.examples import Examples

    if not isinstance(source, Examples):
        if asked.samples:
            say(f"note: at most the first {asked.samples} samples of {source.name}; --samples 0 takes all")
        return
    part = f" ({source.part})" if source.part else ""
    if source.part in ("train", "training") and asked.split is None:
        say(f"note: {source.name} has only the part {source.part}, which the model may have been trained on")
    if len(source) < source.total:
        say(
            f"note: {len(source)} of {source.total:,} samples of {source.name}{part}, drawn at random; "
            "--samples 0 takes all"
        )
