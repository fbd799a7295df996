"""`skiplab diff`: compare skip connections, to check an architecture in continuous integration."""

from typing import Annotated

import typer

from skiplab.cli.app import Json, app, print_json, print_lines
from skiplab.cli.model_options import ModelOptions, skips_of, with_model
from skiplab.cli.option_groups import with_options


@app.command()
@with_options()
def diff(
    model: ModelOptions,
    against: Annotated[
        str, typer.Argument(metavar="OTHER", help="Model to compare with. Both may be files of `find --json`.")
    ],
    other_kwargs: Annotated[
        str | None, typer.Option(help="All keyword arguments of OTHER, as a JSON object (default: those of MODEL).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare the skip connections of two networks; exit with 1 if they differ."""
    from skiplab.analysis.differ import diff
    from skiplab.cli import lines

    difference = diff(skips_of(model), skips_of(with_model(model, against, other_kwargs)))
    if as_json:
        from skiplab.serialization.json_schema import diff_json

        print_json(diff_json(model.spec, against, difference))
    else:
        print_lines(lines.difference_lines(difference))
    if difference:
        raise typer.Exit(1)
