"""Values of options from their text, by the type that the library declares: comma-separated for a sequence."""

from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from skiplab.errors import UsageError


class Form(NamedTuple):
    """What the text of a value looks like: of one, of many, and an example."""

    one: str
    many: str
    example: str


_PLAIN: Mapping[Any, Form] = {
    bool: Form("true or false", "true or false", "true"),
    int: Form("a whole number", "whole numbers", "2"),
    float: Form("a number", "numbers", "0.1"),
    str: Form("a name", "names", "name"),
}


def is_parsed_by_typer(kind: Any) -> bool:
    """Whether typer itself takes the type: a number, a string, a flag or one choice of several, or None."""
    given = [member for member in _members(kind) if member is not NoneType]
    return len(given) == 1 and (given[0] in _PLAIN or get_origin(given[0]) is Literal)


def parser(option: str, kind: Any) -> Callable[[str], Any]:
    """A parser of the text of an option; its UsageError names the forms that the option takes."""
    members = [member for member in _members(kind) if _form(member)]

    def parse(text: str) -> Any:
        for member in members:
            try:
                return _value(text, member)
            except ValueError:
                continue
        raise UsageError(f"{option} {text}: write {' or '.join(map(str, map(_form, members)))}")

    return parse


def metavar(kind: Any) -> str:
    """An example of the text, for the help."""
    return "|".join(_example(member) for member in _members(kind) if _form(member))


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _value(text: str, kind: Any) -> Any:
    """The value; ValueError where the text stands for none of this type."""
    if get_origin(kind) is Sequence:
        (entry,) = get_args(kind)
        values = [_value(part.strip(), entry) for part in text.split(",")]
        return tuple(dict.fromkeys(values) if get_origin(entry) is Literal else values)
    if get_origin(kind) is Literal:
        return get_args(kind)[get_args(kind).index(text)]  # ValueError for none of them
    return kind(text)


def _example(kind: Any) -> str:
    if get_origin(kind) is Sequence:
        return f"{_example(get_args(kind)[0]).partition('|')[0]},…"
    return "|".join(get_args(kind)) if get_origin(kind) is Literal else _PLAIN[kind].example


def _form(kind: Any) -> str | None:
    """What a text for a type looks like; None for a type that has none, such as a list of lists."""
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if get_origin(kind) is Sequence:
        (entry,) = get_args(kind)
        if get_origin(entry) is Literal:
            return f"one or more of {', '.join(get_args(entry))}, comma-separated"
        return f"comma-separated {_PLAIN[entry].many}" if entry in _PLAIN else None
    return _PLAIN[kind].one if kind in _PLAIN else None
