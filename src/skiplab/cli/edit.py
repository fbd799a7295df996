"""`skiplab edit NAME MODEL`: one command for each edit, made from the signature and docstring of its function."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from skiplab.cli.app import Json, app, print_json, print_lines, print_message
from skiplab.cli.common_options import Device, parse_formats
from skiplab.cli.deferred import single_command
from skiplab.cli.model_options import ModelOptions, capture_model, too_large
from skiplab.cli.option_groups import in_panel, with_options
from skiplab.edit.catalog import edit_summaries, load_edit
from skiplab.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from skiplab.cli.edit_targets import TargetOptions
    from skiplab.edit import EditSummary
    from skiplab.graph.program import Program


class EditGroup(TyperGroup):
    """The edits as commands. Only the command that runs is built, since its signature requires torch."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Names of all edits."""
        return [command_name(name) for name in edit_summaries()]

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:  # noqa: ARG002
        """Name and summary of an edit, for the list of commands."""
        summary = edit_summaries().get(function_name(cmd_name))
        return None if summary is None else TyperCommand(cmd_name, help=_escape(summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str, Any, list[str]]:
        """Builds the command of the edit that runs; raises UsageError for an unknown one."""
        names = self.list_commands(ctx)
        if args[0] not in names:
            raise UsageError(f"there is no edit `{args[0]}`: choose one of {', '.join(names)}")
        return args[0], edit_command(function_name(args[0])), args[1:]


edit_app = typer.Typer(cls=EditGroup, no_args_is_help=True)
app.add_typer(edit_app, name="edit", help="Change a network's skip connections and save the result.")


@dataclass(frozen=True)
class OutputOptions:
    """Outputs."""

    out: Annotated[Path | None, typer.Option(help="Folder to write to (default: write nothing).")] = None
    formats: Annotated[str | None, typer.Option(help="Comma-separated: python, pt2, onnx (default: python).")] = None
    as_json: Json = False


def edit_command(name: str) -> Any:
    """The command of one edit, with options of the model, the target, the edit and the output."""
    from skiplab.cli.docstrings import description
    from skiplab.cli.edit_targets import target_options
    from skiplab.cli.function_options import function_options

    function = load_edit(name)
    targets = target_options(function)

    def command(
        model: ModelOptions,
        context: typer.Context,
        target: "TargetOptions",
        output: OutputOptions,
        device: str,
        **arguments: Any,
    ) -> None:
        options = {each: value for each, value in (vars(target) | arguments).items() if _is_set(context, each)}
        _run(model, Edit(name, function, arguments, options), target, output, device)

    annotations = {
        "model": ModelOptions,
        "context": typer.Context,
        "target": targets,
        "output": OutputOptions,
    }
    shared = [
        inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY, annotation=of) for each, of in annotations.items()
    ]
    device = inspect.Parameter(
        "device", inspect.Parameter.KEYWORD_ONLY, default="cpu", annotation=in_panel(Device, "Model")
    )
    parameters = [
        *shared[:2],
        device,
        shared[2],
        *function_options(function, option_names(function), "Edit"),
        shared[3],
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return single_command(command_name(name), with_options(target="Edit")(command), _escape(description(function)))


def option_names(function: Callable[..., Any]) -> list[str]:
    """The arguments of an edit that are options of its own. The seed is an option of the model."""
    from skiplab.cli.edit_targets import TARGETS

    return [name for name in inspect.signature(function).parameters if name not in ("program", *TARGETS, "seed")]


def _is_set(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _escape(text: str) -> str:
    """Escapes brackets, which are markup in rich."""
    from rich.markup import escape

    return escape(text)


def command_name(function: str) -> str:
    """ "drop-path" of "drop_path"."""
    return function.replace("_", "-")


def function_name(command: str) -> str:
    """ "drop_path" of "drop-path"."""
    return command.replace("-", "_")


@dataclass(frozen=True)
class Edit:
    """An edit with its arguments.

    Attributes:
        name: name of the function in `skiplab.edit`.
        function: takes the program, its target, and `arguments`.
        arguments: keyword arguments, including defaults.
        options: the options on the command line, for the JSON.
    """

    name: str
    function: Callable[..., "Program"]
    arguments: Mapping[str, Any]
    options: Mapping[str, Any]


def _run(model: ModelOptions, edit: Edit, targets: "TargetOptions", output: OutputOptions, device: str) -> None:
    if model.meta:
        raise UsageError("edits need values: leave out --meta")
    formats = parse_formats(output.formats, output.out, default="python", training=model.train)
    program = _captured_with_values(model, device)
    from skiplab.cli.output_folder import save_network
    from skiplab.edit import summarize

    target = targets.select(program, model)
    seed = {"seed": model.seed} if "seed" in inspect.signature(edit.function).parameters else {}
    edited = edit.function(program, *target.arguments, **edit.arguments, **seed)
    summary, command = summarize(program, edited), command_name(edit.name)
    if not output.as_json:
        print_lines([f"{command} {target.heading} {model.spec}", *target.lines])
        _print_summary(summary)
    files = save_network(edited, output.out, formats)
    if output.as_json:
        from skiplab.serialization.json_schema import edit_json

        options = {name: value for name, value in edit.options.items() if name != "skips"}
        config = {
            "model": model.spec,
            "kwargs": model.keywords(),
            "edit": command,
            "options": options,
            "edited": target.skip_ids,
        }
        print_json(edit_json(config, asdict(summary), files))
    elif files is not None:
        print_lines(_file_lines(files, output.out))
    if files is None:
        print_message("nothing was written: --out FOLDER saves the network")


def _captured_with_values(model: ModelOptions, device: str) -> "Program":
    program = capture_model(model, device)
    if not program.has_values:
        raise too_large(model.spec, "edits")
    return program


def _print_summary(summary: "EditSummary") -> None:
    from skiplab.cli import console, terminal_tables

    rows = [[str(row.Index), f"{row.before:,}", f"{row.after:,}"] for row in summary.table().itertuples()]
    console.stdout().print(terminal_tables.plain_table(["", "before", "after"], rows))
    print_lines([*summary.answer(), *(f"note: {note}" for note in summary.notes)])


def _file_lines(files: "pd.DataFrame", out: Path | None) -> list[str]:
    """Each file with its size, and the largest difference of outputs after reading it back."""
    from skiplab.stats.wording import memory

    width = max(map(len, files["file"]))
    return [
        f"wrote to {out}:",
        *(
            f"  {row['file']:<{width}}  {memory(row['bytes']):>9}  difference {row['difference']:.2g}"
            for row in files.to_dict("records")
        ),
    ]
