"""Options in groups: a command takes a dataclass, and the command line gets an option for each of its fields."""

import functools
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

Command = Callable[..., None]

# How the help groups them, and option names that are not those of the fields.
PANELS: Mapping[str, str] = {"ModelOptions": "Model", "DataOptions": "Data", "Recipe": "Training"}
FLAGS: Mapping[str, tuple[str, ...]] = {
    "batch_size": ("--batch-size", "-b"),
    "learning_rate": ("--lr",),
    "clip": ("--clip-grad",),
    "padding": ("--crop-padding",),
}


def with_options(
    *, leave_out: Collection[str] = (), defaults: Mapping[str, Any] | None = None
) -> Callable[[Command], Command]:
    """Replaces each parameter of a command that is a dataclass by one option for each field of the dataclass.

    An option's type and default are those of the field. Its help comes from the field's annotation
    (`Annotated[int, typer.Option(…)]`), or else from the section "Attributes" of the dataclass's docstring.

    Args:
        leave_out: fields that keep their default and get no option.
        defaults: other defaults than those of the fields, by name.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command)
        annotations = {name: each.annotation for name, each in signature.parameters.items()}
        groups = {name: each for name, each in annotations.items() if isinstance(each, type) and is_dataclass(each)}
        options = {name: _options(group, leave_out, defaults or {}) for name, group in groups.items()}

        @functools.wraps(command)
        def run(**given: Any) -> None:
            made = {
                name: groups[name](**{each.name: given.pop(each.name) for each in options[name]}) for name in groups
            }
            command(**made, **given)

        parameters = [
            option.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in signature.parameters.items()
            for option in options.get(name, [parameter])
        ]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def _options(group: type, leave_out: Collection[str], defaults: Mapping[str, Any]) -> list[inspect.Parameter]:
    """The parameters with which the dataclass is made, each annotated as an option."""
    hints, texts = get_type_hints(group, include_extras=True), parameter_help(group)
    parameters = inspect.signature(group).parameters
    return [
        parameters[name].replace(
            annotation=_annotated(hints[name], name, texts.get(name), PANELS.get(group.__name__)),
            default=defaults.get(name, parameters[name].default),
        )
        for name in (field.name for field in fields(group))
        if name not in leave_out
    ]


def _annotated(hint: Any, name: str, text: str | None, panel: str | None) -> Any:
    """The field's own annotation where it holds a typer option, else one made of its help."""
    if get_origin(hint) is not Annotated:
        return Annotated[hint, typer.Option(*FLAGS.get(name, ()), help=text, rich_help_panel=panel)]
    for info in get_args(hint)[1:]:
        info.rich_help_panel = info.rich_help_panel or panel
    return hint


def parameter_help(described: Any) -> dict[str, str]:
    """What the docstring of a function or class says about each parameter, in its section "Args" or "Attributes".

    Continuation lines are joined, and the first letter becomes a capital, so that each text reads by itself.
    """
    found: dict[str, list[str]] = {}
    inside, name = False, ""
    for line in (inspect.getdoc(described) or "").splitlines():
        if line and not line.startswith(" "):
            inside = line in ("Args:", "Attributes:")
        elif inside and (entry := re.fullmatch(r"    ([\w, ]+): (.*)", line)):
            name = entry[1]
            found[name] = [entry[2]]
        elif inside and line:
            found[name].append(line.strip())
    joined = {name: " ".join(lines) for name, lines in found.items()}
    return {name: text[:1].upper() + text[1:] for name, text in joined.items()}
