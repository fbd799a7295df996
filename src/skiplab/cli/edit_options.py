"""Command-line options from the signature and the docstring of an edit."""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_origin

import typer

from skiplab.cli.docstrings import argument_helps
from skiplab.cli.edit_targets import TARGETS
from skiplab.cli.option_groups import in_panel
from skiplab.errors import UsageError

_NOT_OPTIONS = ("program", *TARGETS, "seed")  # the seed is an option of the model


def edit_options(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The options of one edit: `Literal` becomes a choice, bool a flag, a sequence of numbers "0,2,1"."""
    helps = argument_helps(function)
    return [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=in_panel(_option(each, helps.get(name)), "Edit"))
        for name, each in inspect.signature(function).parameters.items()
        if name not in _NOT_OPTIONS
    ]


def _option(parameter: inspect.Parameter, text: str | None) -> Any:
    name = f"--{parameter.name.replace('_', '-')}"
    if get_origin(parameter.annotation) is Sequence:
        return Annotated[Any, typer.Option(name, parser=_numbers_of(name), metavar="0,2,1", help=text)]
    return Annotated[parameter.annotation, typer.Option(help=text)]


def _numbers_of(option: str) -> Callable[[str], list[int]]:
    """A parser of "0,2,1"."""

    def numbers(text: str) -> list[int]:
        try:
            return [int(each) for each in text.split(",")]
        except ValueError:
            raise UsageError(f"{option} {text}: write comma-separated whole numbers, such as 0,2,1") from None

    return numbers
