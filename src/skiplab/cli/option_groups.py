"""Groups of options: a command takes a dataclass, and the command line has one option per field."""

import copy
import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import OptionInfo

from skiplab.cli.docstrings import argument_helps
from skiplab.cli.value_parser import is_parsed_by_typer, metavar, parser
from skiplab.errors import UsageError

Command = Callable[..., None]

# Option names that differ from the name of the field.
FLAGS: Mapping[str, tuple[str, ...]] = {
    "batch_size": ("--batch-size", "-b"),
    "learning_rate": ("--lr",),
    "clip": ("--clip-grad",),
    "padding": ("--crop-padding",),
    "max_change": ("--max-loss",),
}


def with_options(
    *,
    leave_out: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
    keywords: Sequence[inspect.Parameter] = (),
    **panels: str,
) -> Callable[[Command], Command]:
    """A decorator that replaces each parameter annotated with a dataclass by one option per field.

    An option's type and default are those of the field. Its help comes from the field's annotation
    (`Annotated[int, typer.Option(…)]`), or else from the section "Attributes" of the dataclass's docstring.

    Args:
        leave_out: fields without an option; they keep their default.
        defaults: default values that replace those of the fields, by name.
        keywords: the options that the command's `**keywords` stand for.
        panels: titles of the help panel of each parameter, by the name of the parameter; the default is its
            capitalized name.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command)
        groups = {
            name: parameter.annotation
            for name, parameter in signature.parameters.items()
            if isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation)
        }
        options = {
            name: _options(group, panels.get(name, name.capitalize()), leave_out, defaults or {})
            for name, group in groups.items()
        }

        @functools.wraps(command)
        def run(**values: Any) -> None:
            instances = {
                name: _make(group, {option.name: values.pop(option.name) for option in options[name]})
                for name, group in groups.items()
            }
            command(**instances, **values)

        parameters = [
            option.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in signature.parameters.items()
            for option in (
                keywords if parameter.kind is inspect.Parameter.VAR_KEYWORD else options.get(name, [parameter])
            )
        ]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def _make(group: type, values: Mapping[str, Any]) -> Any:
    """The dataclass with these values; its errors name options in place of fields."""
    try:
        return group(**values)
    except UsageError as error:
        raise UsageError(with_option_names(str(error), values)) from None


def with_option_names(message: str, names: Iterable[str]) -> str:
    """An error of the library with "learning_rate=-1" written as "--lr -1", for each of the names."""
    pattern = rf"\b({'|'.join(names)})(=| and | exclude )"
    return re.sub(pattern, lambda found: flag(found[1]) + (" " if found[2] == "=" else found[2]), message)


def flag(name: str) -> str:
    """The option of a field: "--lr" of "learning_rate"."""
    return FLAGS.get(name, (f"--{name.replace('_', '-')}",))[0]


def _options(
    group: type, panel: str, leave_out: Collection[str], defaults: Mapping[str, Any]
) -> list[inspect.Parameter]:
    """The parameters of a dataclass, each annotated as an option."""
    hints, helps = get_type_hints(group, include_extras=True), argument_helps(group)
    parameters = inspect.signature(group).parameters
    return [
        parameters[name].replace(
            annotation=option(hints[name], name, helps.get(name), panel),
            default=defaults.get(name, parameters[name].default),
        )
        for name in (field.name for field in fields(group))
        if name not in leave_out
    ]


def option(hint: Any, name: str, text: str | None, panel: str, *, flag_only: bool = False) -> Any:
    """The annotation of an option.

    Args:
        hint: type of the value; `Annotated` where the option is declared by hand.
        name: of the field or argument.
        text: the help.
        panel: title of the help panel.
        flag_only: whether there is no "--no-…".
    """
    if get_origin(hint) is Annotated:
        return in_panel(hint, panel)
    if is_parsed_by_typer(hint):
        names = FLAGS.get(name, (flag(name),) if flag_only else ())
        return Annotated[hint, typer.Option(*names, help=text, rich_help_panel=panel)]
    made = typer.Option(
        flag(name), parser=parser(flag(name), hint), metavar=metavar(hint), help=text, rich_help_panel=panel
    )
    return Annotated[Any, made]


def in_panel(annotation: Any, panel: str) -> Any:
    """The annotation of an option with a help panel; arguments and options that have one are unchanged."""
    kind, info = get_args(annotation)
    if not isinstance(info, OptionInfo) or info.rich_help_panel:
        return annotation
    info = copy.copy(info)
    info.rich_help_panel = panel
    return Annotated[kind, info]
