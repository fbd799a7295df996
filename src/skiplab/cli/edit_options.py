"""Command-line options from the signature and the docstring of an edit."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_origin

import typer

from skiplab.cli.edit_targets import TARGETS
from skiplab.errors import UsageError

_FROM_ELSEWHERE = ("program", *TARGETS, "seed")  # the seed is that of the model


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function, or the fields of a dataclass, as keyword-only parameters."""
    parameters = inspect.signature(function).parameters
    return {name: each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, each in parameters.items()}


def edit_parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of an edit's own: a `Literal` is a choice, a bool a flag, a sequence of numbers "0,2,1"."""
    helps = argument_helps(function)
    own = {name: each for name, each in parameters_of(function).items() if name not in _FROM_ELSEWHERE}
    return {name: each.replace(annotation=_option(each, helps.get(name, ""))) for name, each in own.items()}


def _option(parameter: inspect.Parameter, text: str) -> Any:
    name = f"--{parameter.name.replace('_', '-')}"
    text = text[:1].upper() + text[1:]
    if get_origin(parameter.annotation) is Sequence:
        return Annotated[Any, typer.Option(name, parser=_numbers_of(name), metavar="0,2,1", help=text)]
    return Annotated[parameter.annotation, typer.Option(help=text)]


def _numbers_of(option: str) -> Callable[[str], list[int]]:
    """A parser of "0,2,1"."""

    def numbers(text: str) -> list[int]:
        try:
            return [int(each) for each in text.split(",")]
        except ValueError:
            raise UsageError(f"{option} {text}: write whole numbers with commas, such as 0,2,1") from None

    return numbers


def description(function: Callable[..., Any]) -> str:
    """A docstring without its sections Args, Returns and Raises, one line a paragraph."""
    return re.sub(r"(?<!\n)\n(?!\n|- )\s*", " ", _sections(function)[0].strip())


def argument_helps(function: Callable[..., Any]) -> dict[str, str]:
    """The text of each argument in the section Args of a docstring; "a, b: text" holds for both."""
    section = next((text for text in _sections(function) if text.startswith("Args:")), "")
    entries = re.findall(r"^    ([\w, ]+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    return {name.strip(): " ".join(text.split()) for names, text in entries for name in names.split(",")}


def _sections(function: Callable[..., Any]) -> list[str]:
    return re.split(r"^(?=(?:Args|Returns|Raises):\n)", inspect.getdoc(function) or "", flags=re.MULTILINE)
