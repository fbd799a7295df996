"""The options of all commands on a model, and the program of that model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skiplab.cli.app import print_message
from skiplab.errors import ModelError, UsageError

if TYPE_CHECKING:
    from skiplab.analysis.skips import Skips
    from skiplab.graph.program import Program
    from skiplab.loading.resolve import Resolved

_TOLERANCE = 1e-3  # largest difference of outputs without a warning; it allows for rounding


@dataclass(frozen=True, kw_only=True)
class ModelKeywords:
    """Keyword arguments that build a model, under the same names for models of every source."""

    num_classes: Annotated[int | None, typer.Option(min=1, help="Number of classes to build the model for.")] = None
    in_channels: Annotated[int | None, typer.Option(min=1, help="Number of channels of the input images.")] = None
    img_size: Annotated[int | None, typer.Option(min=1, help="Height and width of the input images.")] = None
    kwarg: Annotated[
        list[str] | None, typer.Option(help="A keyword argument of the callable: depth=20. May be repeated.")
    ] = None

    def for_model(self, spec: str) -> dict[str, Any]:
        """The keyword arguments of the callable behind this MODEL."""
        from skiplab.loading.model_keywords import keyword_name, takes_img_size

        img_size = self.img_size if self.img_size and takes_img_size(spec) else None
        named = {"num_classes": self.num_classes, "in_channels": self.in_channels, "img_size": img_size}
        renamed = {keyword_name(spec, name): value for name, value in named.items() if value is not None}
        return dict(map(parse_kwarg, self.kwarg or ())) | renamed


@dataclass(frozen=True)
class ModelOptions(ModelKeywords):
    """The model, and its example inputs."""

    spec: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="resnet50, file.py:callable, package.module:callable, timm:NAME, torchvision:NAME, "
            "transformers:TYPE_OR_PATH or file.pt2.",
        ),
    ]
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="Shape of an input: 1x3x224x224, or 1x16:int64 with a dtype. One per argument."),
    ] = None
    kwargs: Annotated[str, typer.Option(help="Keyword arguments of the callable, as a JSON object.")] = "{}"
    weights: Annotated[
        Path | None, typer.Option(help="Weights to load: a safetensors file or a pickled state dict.")
    ] = None
    train: Annotated[bool, typer.Option("--train", help="Capture the training graph instead of inference.")] = False
    meta: Annotated[bool, typer.Option("--meta", help="Structure only: allocate no memory for weights.")] = False
    trust: Annotated[bool, typer.Option("--trust", help="Allow reading a .pt2 file, which can run code.")] = False
    seed: Annotated[int, typer.Option(help="Seed of the initial weights.")] = 0

    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of the callable that builds the model, from --kwargs, --kwarg and the named options."""
        return parse_kwargs(self.kwargs) | self.for_model(self.spec)

    def resolved(self, shapes: Sequence[str] = ()) -> "Resolved":
        """The model with inputs of `shapes`, else of --input, else its default inputs, resized to --img-size."""
        from skiplab.loading.resolve import resolve

        shapes = shapes or self.inputs or ()
        model = resolve(self.spec, shapes, self.keywords(), self.weights, self.trust, meta=self.meta)
        return model.with_img_size(self.img_size) if self.img_size and not shapes else model


def parse_kwargs(text: str) -> dict[str, Any]:
    """Parses `--kwargs`, a JSON object; raises UsageError for other text."""
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"--kwargs {text}: not valid JSON ({error}); write '{{\"num_classes\": 10}}'") from None
    if not isinstance(options, dict):
        raise UsageError(f"--kwargs {text}: write a JSON object, '{{\"num_classes\": 10}}'")
    return options


def parse_kwarg(text: str) -> tuple[str, Any]:
    """Parses `--kwarg name=value`; a value that is no valid JSON is a string. Raises UsageError without a name."""
    name, sign, value = text.partition("=")
    if not (sign and name.isidentifier()):
        raise UsageError(f"--kwarg {text}: write name=value, such as depth=20")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def capture_model(options: ModelOptions, device: str = "cpu") -> "Program":
    """Captures the model on a device, and prints the warnings of `warn_about`."""
    import torch

    from skiplab.graph.capture import capture
    from skiplab.loading.resolve import quiet

    torch.manual_seed(options.seed)
    resolved = options.resolved()
    if resolved.meta and not options.meta:
        print_message("note: the model does not fit in memory and was built without values (as with --meta)")
    model, args, kwargs = resolved.model, resolved.args, resolved.kwargs
    if device != "cpu" and not resolved.meta:
        from skiplab.graph.torch_compat import pytree
        from skiplab.training.fit import fabric_on

        target = fabric_on(device).device
        model = model.to(target)
        args, kwargs = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(target), (args, kwargs))
    with quiet():
        program = capture(model, args, kwargs, train=options.train)
    warn_about(program, values=not resolved.meta)
    return program


def warn_about(program: "Program", *, values: bool = True) -> None:
    """Prints a warning for in-place writes that were not captured, values that were read, and outputs that differ.

    values: whether the model has values; without them outputs are not compared.
    """
    if program.unfollowed:
        names = ", ".join(program.unfollowed[:3])
        print_message(
            f"note: skips through these in-place writes may be missing, since they were not captured: {names}"
        )
    if program.reads:
        print_message(
            "note: the graph holds for such data alone, since Python reads values of them: "
            + ", ".join(program.reads[:3])
        )
    if values and not program.difference <= _TOLERANCE:
        print_message(
            f"note: the outputs of the captured graph and of the model differ by {program.difference:.2g} (nan: not "
            "comparable), so results may not hold for the model"
        )


def skips_of(options: ModelOptions) -> "Skips":
    """The skips of a model, or of a file written by `skiplab find --json`."""
    if options.spec.endswith(".json"):
        from skiplab.serialization.json_schema import read_skips

        return read_skips(Path(options.spec))
    from skiplab.analysis.finder import find

    return find(capture_model(options))


def select(skips: "Skips", pattern: str) -> "Skips":
    """The skips with this id or path; raises UsageError if there are none."""
    selected = skips.at(pattern)
    if not len(skips):
        raise UsageError("the network has no skips: see skiplab find --all, and skiplab edit insert")
    if not len(selected):
        some = ", ".join(skip.id for skip in skips[:5]) + (", …" if len(skips) > 5 else "")
        raise UsageError(f"--skips {pattern} selects none of {len(skips)} skips ({some}): see skiplab find")
    return selected


def too_large(spec: str, work: str) -> ModelError:
    """The error for a model built without values, where `work` requires them."""
    return ModelError(f"{spec} does not fit in memory, and {work} requires values: use a smaller model")


def with_model(options: ModelOptions, spec: str, kwargs: str | None) -> ModelOptions:
    """The options for another model, with `kwargs` as its only keyword arguments, or with the same ones if None."""
    if kwargs is None:
        return replace(options, spec=spec)
    return replace(options, spec=spec, kwargs=kwargs, kwarg=None, num_classes=None, in_channels=None, img_size=None)
