"""Command-line options from the keyword arguments of a function of the library, and from its docstring."""

import inspect
from collections.abc import Callable, Collection
from typing import Any, get_args, get_type_hints

from skiplab.cli.docstrings import argument_helps
from skiplab.cli.option_groups import option


def function_options(
    function: Callable[..., Any], names: Collection[str], panel: str, *, defaults: bool = True
) -> list[inspect.Parameter]:
    """Arguments of a function as options of a command.

    Args:
        function: the function of the library.
        names: the arguments that become options, in this order.
        panel: title of the help panel.
        defaults: whether an option that is not given has the argument's default, rather than None (False for a flag).
    """
    arguments = _arguments(function)
    found = []
    for name in names:
        argument, text = arguments[name]
        flag_only = argument.annotation is bool and argument.default is not True
        if not defaults or flag_only:
            argument = argument.replace(default=False if flag_only else None)
        annotation = option(argument.annotation, name, text, panel, flag_only=flag_only)
        found.append(argument.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation))
    return found


def _arguments(function: Callable[..., Any]) -> dict[str, tuple[inspect.Parameter, str | None]]:
    """Each argument with its text in the docstring, and the items of `**options: Unpack[…]`."""
    hints, helps = get_type_hints(function), argument_helps(function)
    found = {}
    for name, each in inspect.signature(function).parameters.items():
        if each.kind is inspect.Parameter.VAR_KEYWORD:
            (items,) = get_args(hints[name])
            texts = argument_helps(items)
            found |= {
                item: (inspect.Parameter(item, inspect.Parameter.KEYWORD_ONLY, annotation=of), texts.get(item))
                for item, of in get_type_hints(items).items()
            }
        else:
            found[name] = (each.replace(annotation=hints[name]), helps.get(name))
    return found
