"""Commands that are built only when they run, since their options are those of functions that import torch."""

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from skiplab.cli.app import app

Builder = Callable[[], Any]
_BUILDERS: dict[str, Builder] = {}


class DeferredGroup(TyperGroup):
    """A group in which `deferred` commands have a name and a summary until they run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command, built if it is deferred."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, _BUILDERS[name]() if name in _BUILDERS else command, rest


app.info.cls = DeferredGroup


def deferred(name: str, summary: str) -> Callable[[Builder], Builder]:
    """A decorator of a function that builds the command `skiplab NAME`."""

    def register(builder: Builder) -> Builder:
        _BUILDERS[name] = builder
        app.command(name, help=summary)(lambda: None)
        return builder

    return register


def single_command(name: str, function: Callable[..., None], help_text: str) -> Any:
    """A command outside the application."""
    single = typer.Typer(add_completion=False)
    single.command(name, help=help_text)(function)
    return typer.main.get_command(single)
