"""`skiplab edit`: change a network's skip connections, and save what it becomes."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skiplab.cli.app import Json, app, print_json, print_lines, say
from skiplab.cli.common_options import formats_of
from skiplab.cli.edits import VERBS, chosen, fitting, order_of
from skiplab.cli.model_options import Request, captured, on_a_model
from skiplab.errors import ModelError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from skiplab.graph.program import Program


@app.command()
@on_a_model
def edit(
    request: Request,
    name: Annotated[str, typer.Argument(metavar="EDIT", help=f"{', '.join(VERBS)}.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write the network to (default: write nothing).")] = None,
    formats: Annotated[str | None, typer.Option(help="With commas, of python, pt2, onnx (default: python).")] = None,
    skips: Annotated[str | None, typer.Option(help="Which skips, by id or path: 'layer2.*' (default: all).")] = None,
    shortcut: Annotated[float | None, typer.Option(help="scale: factor on the shortcut.")] = None,
    branch: Annotated[float | None, typer.Option(help="scale: factor on the branch.")] = None,
    learn: Annotated[str | None, typer.Option(help="scale: no, scalar or vector (default: no).")] = None,
    start: Annotated[float | None, typer.Option(help="layer-scale: where it starts (default: 1e-5).")] = None,
    p: Annotated[float | None, typer.Option(help="drop-path: probability, of the last skip.")] = None,
    linear: Annotated[
        bool | None, typer.Option("--linear/--constant", help="drop-path: rising to p, or p for all.")
    ] = None,
    bias: Annotated[
        float | None, typer.Option(help="gate, highway: where its bias starts (default: 0; highway -1).")
    ] = None,
    form: Annotated[str | None, typer.Option(help="gate: exclusive or shortcut-only (default: exclusive).")] = None,
    order: Annotated[str | None, typer.Option(help="reorder: which block stands at each place, 0,2,1.")] = None,
    every: Annotated[int | None, typer.Option(help="insert: a shortcut around so many layers (default: 2).")] = None,
    placement: Annotated[str | None, typer.Option(help="insert: post- or pre-activation: post, pre.")] = None,
    start_at: Annotated[str | None, typer.Option("--from", help="insert: from what this op or module gives.")] = None,
    end_at: Annotated[str | None, typer.Option("--to", help="insert: to what this one gives.")] = None,
    fit: Annotated[str | None, typer.Option(help="insert: A (zeros) or B (projection) where shapes differ.")] = None,
    factor: Annotated[float | None, typer.Option(help="insert: on what comes over the shortcut.")] = None,
    norm: Annotated[
        bool | None, typer.Option("--norm/--no-norm", help="to-pre-activation: new batch norms (default: yes).")
    ] = None,
    data: Annotated[str | None, typer.Option(help="recalibrate: the data, see docs/data.md.")] = None,
    as_json: Json = False,
) -> None:
    """Change skip connections, say what that changes, and save the network."""
    options = {"shortcut": shortcut, "branch": branch, "learn": learn, "start": start, "p": p, "linear": linear}
    options |= {"bias": bias, "form": form, "order": order_of(order), "every": every, "placement": placement}
    options |= {"start_at": start_at, "end_at": end_at, "fit": fit, "factor": factor, "norm": norm, "data": data}
    given = fitting(name, options)
    if skips is not None and VERBS[name].of != "skips":
        raise UsageError(f"--skips is no option of {name}: leave it out")
    if request.meta:
        raise UsageError("an edit needs the network's values: leave out --meta")
    kinds = formats_of(formats, out, default="python", training=request.train)
    function, arguments = chosen(name, given, request.seed)
    program = _program(request)
    from skiplab.cli.change import change, notes
    from skiplab.cli.edit_targets import target_of

    target = target_of(name, program, given, skips, request)
    edited = function(program, *target.arguments, **arguments)
    found = change(program, edited)
    remarks = list(notes(name, program, edited, target.skips, found))
    if not as_json:
        print_lines([f"{name} {target.heading} {request.model}", *target.lines, *found.lines()])
        print_lines([f"note: {remark}" for remark in remarks])
    files = _saved(edited, out, kinds)
    if as_json:
        from skiplab.serialization.json_schema import edit_json

        config = {"model": request.model, "edit": name, "options": given, "edited": [s.id for s in target.skips]}
        print_json(edit_json(config, asdict(found), remarks, files))
    elif files is not None:
        print_lines(_file_lines(files, out))
    if files is None:
        say("nothing was written: --out FOLDER saves the network")


def _program(request: Request) -> "Program":
    program = captured(request)
    if not program.has_values:
        raise ModelError(f"{request.model} would fill the memory, and an edit needs its values: use a smaller one")
    return program


def _saved(edited: "Program", out: Path | None, formats: list[str]) -> "pd.DataFrame | None":
    if out is None:
        return None
    from skiplab.serialization import save

    return save(edited, out, formats)


def _file_lines(files: "pd.DataFrame", out: Path | None) -> list[str]:
    """Each file with its size, and how far what it gives when read back is from the network."""
    from skiplab.cli import render

    rows: list[dict[str, Any]] = [dict(row) for _, row in files.iterrows()]
    width = max(len(row["file"]) for row in rows)
    texts = [
        f"  {row['file']:<{width}}  {render.memory(row['bytes']):>9}  difference {row['difference']:.2g}"
        for row in rows
    ]
    return [f"wrote to {out}:", *texts]
