"""Dataclasses as groups of options, and the help of every command."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import click
import pytest
import typer
from typer.testing import CliRunner

from skiplab import cli
from skiplab.cli.docstrings import argument_helps, description
from skiplab.cli.option_groups import with_option_names, with_options
from skiplab.cli.value_parser import parser
from skiplab.errors import UsageError
from skiplab.training.recipe import Recipe


@dataclass(frozen=True)
class PaintOptions:
    """How to paint.

    Attributes:
        color: color of the first
            coat.
        coats: number of coats.
        learning_rate: how fast.
    """

    color: Literal["red", "blue"]
    coats: int = 2
    learning_rate: float = 0.5
    glossy: Annotated[bool, typer.Option("--glossy", help="Add a varnish.")] = False


def made(*arguments: str, **options: Any) -> tuple[Any, PaintOptions, str]:
    """The command, what it received, and its other parameter."""
    received: list[Any] = []
    app = typer.Typer()

    @app.command()
    @with_options(**options)
    def paint(paint: PaintOptions, wall: str = "north") -> None:
        received.extend((paint, wall))

    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return typer.main.get_command(app), *received


def test_fields_become_options() -> None:
    command, paint, wall = made("--color", "blue", "--lr", "2", "--wall", "south")
    assert (paint, wall) == (PaintOptions("blue", learning_rate=2.0), "south")
    options = {each.name: each for each in command.params}
    assert options["color"].help == "Color of the first coat."
    assert options["coats"].help == "Number of coats."
    assert options["glossy"].help == "Add a varnish."
    assert {options[name].rich_help_panel for name in ("color", "coats", "learning_rate", "glossy")} == {"Paint"}


def test_fields_without_an_option_and_with_another_default() -> None:
    command, paint, _ = made("--color", "red", leave_out=("glossy",), defaults={"coats": 3}, paint="Walls")
    assert paint == PaintOptions("red", coats=3)
    options = {each.name: each for each in command.params}
    assert "glossy" not in options
    assert options["coats"].rich_help_panel == "Walls"


def test_errors_of_a_dataclass_name_the_option() -> None:
    with pytest.raises(UsageError, match=r"^--lr -1\.0: give "):
        CliRunner().invoke(cli.app, ["train", "resnet20", "--data", "digits", "--lr", "-1"], catch_exceptions=False)
    assert with_option_names("keep and max_change exclude each other", ("keep", "max_change")) == (
        "--keep and --max-loss exclude each other"
    )


def test_sections_of_a_docstring() -> None:
    def bake(flour: int, sugar: int, salt: int) -> int:
        """Bakes a cake.

        It takes an hour
        or two.

        Args:
            flour, sugar: mass in
                grams.
            salt: a pinch: enough for all.

        Returns:
            cake: not an argument.
        """
        return 0

    assert description(bake) == "Bakes a cake.\n\nIt takes an hour or two."
    assert argument_helps(bake) == {
        "flour": "Mass in grams.",
        "sugar": "Mass in grams.",
        "salt": "A pinch: enough for all.",
    }
    assert argument_helps(int) == {}


def commands(command: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, as it is when it runs."""
    if not hasattr(command, "list_commands"):
        yield " ".join(names), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        yield from commands(command.resolve_command(context, [name])[1], (*names, name))


COMMANDS = dict(commands(typer.main.get_command(cli.app)))


def test_all_commands_are_here() -> None:
    assert COMMANDS.keys() >= {
        "find",
        "lint",
        "measure",
        "prune",
        "train",
        "edit rezero",
        "study depth",
        "study compare",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text_that_stands_alone(name: str) -> None:
    for parameter in COMMANDS[name].params:
        text = getattr(parameter, "help", None)
        assert text, f"{name}: {parameter.opts} has no help text"
        assert text.endswith((".", ")")), f"{name}: {parameter.opts}: {text}"
        assert len(text) > 15, f"{name}: {parameter.opts}: {text}"
        assert all("_" not in option for option in parameter.opts if option.startswith("--"))


def test_measures_have_their_options() -> None:
    assert {"kinds", "groups", "networks", "reestimate"} <= {each.name for each in COMMANDS["measure"].params}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Sequence[int], "2,0, 2", (2, 0, 2)),
        (Sequence[float], "1e-3,.5", (0.001, 0.5)),
        (Sequence[str], "a, b", ("a", "b")),
        (Sequence[Literal["a", "b"]], "b,a,b", ("b", "a")),
        (int | Literal["pairs"] | Sequence[Sequence[str]], "pairs", "pairs"),
        (int | Literal["pairs"] | Sequence[Sequence[str]], "3", 3),
    ],
)
def test_values_have_the_type_that_the_library_declares(kind: Any, text: str, value: Any) -> None:
    assert parser("--x", kind)(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (Sequence[int], "1,b", "--x 1,b: write comma-separated whole numbers"),
        (Sequence[Literal["a", "b"]], "a,c", "--x a,c: write one or more of a, b, comma-separated"),
        (int | Literal["pairs"] | Sequence[Sequence[str]], "few", "--x few: write a whole number or pairs"),
    ],
)
def test_wrong_values_are_answered_with_the_right_form(kind: Any, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parser("--x", kind)(text)


def test_training_has_an_option_for_each_part_of_the_recipe() -> None:
    names = {parameter.name for parameter in COMMANDS["train"].params}
    assert names >= set(Recipe.__dataclass_fields__) - {"seed"}
