"""`skiplab lint`: likely mistakes around skip connections that raise no error."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from skiplab.cli.app import Json, app, print_json, print_lines, print_message
from skiplab.cli.model_options import ModelOptions, capture_model
from skiplab.cli.option_groups import with_options
from skiplab.errors import ModelError

if TYPE_CHECKING:
    from skiplab.linter import Findings


def _list_rules(value: bool) -> None:
    if value:
        from skiplab.linter import RULES

        width = max(len(rule.name) for rule in RULES)
        print_lines([f"{rule.name:{width}}  {rule.summary}" for rule in RULES])
        raise typer.Exit


@app.command()
@with_options(leave_out=("train",))
def lint(
    model: ModelOptions,
    identity_path: Annotated[
        bool, typer.Option("--identity-path", help="Report ops that break a path without nonlinearities.")
    ] = False,
    _rules: Annotated[
        bool, typer.Option("--rules", help="List all rules, and exit.", is_eager=True, callback=_list_rules)
    ] = False,
    as_json: Json = False,
) -> None:
    """Find likely mistakes around the skip connections of a network; exit with 1 if there are any."""
    findings = _findings(model, identity_path)
    if as_json:
        from skiplab.linter import findings_json

        print_json(findings_json(model.spec, findings))
    else:
        from skiplab.cli import lines

        print_lines(lines.findings_lines(findings))
    if findings:
        raise typer.Exit(1)


def _findings(model: ModelOptions, identity_path: bool) -> "Findings":
    """The findings in the inference graph and in the training graph; only the latter has drop-path."""
    from skiplab.linter import lint

    findings = lint(capture_model(replace(model, train=False)), identity_path=identity_path)
    try:
        training_program = capture_model(replace(model, train=True))
    except ModelError as error:
        print_message(f"note: the training graph is not checked: {error}")
        return findings
    return findings + lint(training_program, identity_path=identity_path)
