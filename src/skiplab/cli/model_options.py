"""A model as the user names it: the options that all commands on a model share, and what they lead to."""

import copy
import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer.models import OptionInfo

from skiplab.cli.app import say
from skiplab.errors import UsageError

if TYPE_CHECKING:
    from skiplab.analysis.skips import Skips
    from skiplab.graph.program import Program

_TOLERANCE = 1e-3  # of an output; kernels in another order round differently


@dataclass(frozen=True)
class Request:
    """Which model, on which inputs."""

    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="resnet50, file.py:callable, package.module:callable, timm:NAME, torchvision:NAME, "
            "transformers:TYPE_OR_PATH or file.pt2.",
        ),
    ]
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="Shape of an input, 1x3x224x224; with a dtype, 1x16:int64. Once an argument."),
    ] = None
    kwargs: Annotated[str, typer.Option(help="Keyword arguments for the callable, as JSON.")] = "{}"
    weights: Annotated[Path | None, typer.Option(help="Weights: safetensors, or a pickled state dict.")] = None
    train: Annotated[bool, typer.Option("--train", help="Capture the training graph.")] = False
    meta: Annotated[bool, typer.Option("--meta", help="Take no memory for weights; then there are no values.")] = False
    trust: Annotated[bool, typer.Option("--trust", help="Read a .pt2 file, which can run code of its maker.")] = False
    seed: Annotated[int, typer.Option(help="Seed of the initial weights.")] = 0


def on_a_model(command: Callable[..., None], without: tuple[str, ...] = ()) -> Callable[..., None]:
    """Gives a command, whose first parameter is a Request, the options of one, but for those that it has no use for."""
    parameters = inspect.signature(Request).parameters
    shared = {name: in_panel(each, "Model") for name, each in parameters.items() if name not in without}
    own = list(inspect.signature(command).parameters.values())[1:]

    @functools.wraps(command)
    def run(**options: Any) -> None:
        request = Request(**{name: options.pop(name) for name in shared})
        command(request, **options)

    both = [*shared.values(), *own]
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in both]
    )
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in both}
    return run


def in_panel(parameter: inspect.Parameter, panel: str) -> inspect.Parameter:
    """A parameter of a command, shown in a panel of the command's help; an argument stays in its own."""
    kind, option = get_args(parameter.annotation)
    if not isinstance(option, OptionInfo):
        return parameter
    option = copy.copy(option)
    option.rich_help_panel = panel
    return parameter.replace(annotation=Annotated[kind, option])


def captured(request: Request, device: str = "cpu") -> "Program":
    """The model's program on a device. Warnings about it go to stderr."""
    options = keywords(request.kwargs)
    import torch

    from skiplab.graph.capture import capture
    from skiplab.loading.resolve import quiet, resolve

    torch.manual_seed(request.seed)
    resolved = resolve(request.model, request.inputs or (), options, request.weights, request.trust, meta=request.meta)
    if resolved.meta and not request.meta:
        say("note: the model would fill the memory, so it was built without values (as with --meta)")
    model, args, kwargs = resolved.model, resolved.args, resolved.kwargs
    if device != "cpu" and not resolved.meta:
        from skiplab.graph.torch_compat import pytree
        from skiplab.training.fit import fabric_on

        place = fabric_on(device).device
        model = model.to(place)
        args, kwargs = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(place), (args, kwargs))
    with quiet():
        program = capture(model, args, kwargs, train=request.train)
    say_doubts(program, values=not resolved.meta)
    return program


def say_doubts(program: "Program", *, values: bool = True) -> None:
    """What may be wrong with a program; without values its output cannot be compared with the model's."""
    if program.unfollowed:
        names = ", ".join(program.unfollowed[:3])
        say(f"note: in-place writes that could not be followed, so skips through them may be missed: {names}")
    if values and not program.difference <= _TOLERANCE:
        say(
            f"note: the captured graph's output differs from the model's by {program.difference:.2g} "
            "(nan: they could not be compared), so it may not be the same network"
        )


def skips_of(request: Request) -> "Skips":
    """The skips of a model, or of the `find --json` file that stands in its place."""
    if request.model.endswith(".json"):
        from skiplab.serialization.json_schema import read_skips

        return read_skips(Path(request.model))
    from skiplab.analysis.finder import find

    return find(captured(request))


def other(request: Request, model: str, kwargs: str | None) -> Request:
    """The same request of another model."""
    return replace(request, model=model, kwargs=request.kwargs if kwargs is None else kwargs)


def keywords(kwargs: str) -> dict[str, Any]:
    """What `--kwargs` holds."""
    try:
        options = json.loads(kwargs)
    except json.JSONDecodeError as error:
        raise UsageError(f"--kwargs {kwargs}: no JSON ({error}); write '{{\"num_classes\": 10}}'") from None
    if not isinstance(options, dict):
        raise UsageError(f"--kwargs {kwargs}: write a JSON object, '{{\"num_classes\": 10}}'")
    return options
