"""`skiplab lint`: mistakes around skip connections that train without a word."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from skiplab.cli.app import Json, app, print_json, print_lines, say
from skiplab.cli.model_options import Request, captured, on_a_model
from skiplab.errors import ModelError

if TYPE_CHECKING:
    from skiplab.linter import Findings


@app.command()
@on_a_model
def lint(
    request: Request,
    identity_path: Annotated[
        bool, typer.Option("--identity-path", help="The network is meant to have a path without nonlinearities.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look for mistakes around the skip connections of a network; exit with 1 when there are any."""
    findings = _findings(request, identity_path)
    if as_json:
        from skiplab.linter import findings_json

        print_json(findings_json(request.model, findings))
    else:
        from skiplab.cli import render

        print_lines(render.findings_lines(findings))
    if findings:
        raise typer.Exit(1)


def _findings(request: Request, identity_path: bool) -> "Findings":
    """Of the inference graph and of the training graph, in which alone drop-path is to be seen."""
    from skiplab.linter import lint

    findings = lint(captured(replace(request, train=False)), identity_path=identity_path)
    try:
        trained = captured(replace(request, train=True))
    except ModelError as error:
        say(f"note: the training graph was not looked at: {error}")
        return findings
    return findings + lint(trained, identity_path=identity_path)
