"""`skiplab edit`: change a network's skip connections, and save what it becomes."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skiplab.cli.app import Json, app, print_json, print_lines, say
from skiplab.cli.edits import VERBS, chosen, fitting, order_of
from skiplab.cli.request import Request, captured, on_a_model
from skiplab.errors import ModelError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from skiplab.program import Program
    from skiplab.skips import Skips


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
    as_json: Json = False,
) -> None:
    """Change skip connections, say what that changes, and save the network."""
    options = {"shortcut": shortcut, "branch": branch, "learn": learn, "start": start, "p": p, "linear": linear}
    options |= {"bias": bias, "form": form, "order": order_of(order)}
    fitting(name, options)
    kinds = _formats(request, formats, out)
    function, arguments = chosen(name, options, request.seed)
    program, known, selected = _selected(request, skips)
    from skiplab.cli.change import change, notes

    edited = function(program, selected, **arguments)
    found = change(program, edited)
    remarks = list(notes(name, program, edited, selected, found))
    if not as_json:
        print_lines([f"{name} at {len(selected)} of {len(known)} skips of {request.model}", *found.lines()])
        print_lines([f"note: {remark}" for remark in remarks])
    files = _saved(edited, out, kinds)
    if as_json:
        from skiplab.schema import edit_json

        told = {key: value for key, value in arguments.items() if key in options}
        config = {"model": request.model, "edit": name, "options": told, "edited": [skip.id for skip in selected]}
        print_json(edit_json(config, asdict(found), remarks, files))
    elif files is not None:
        print_lines(_file_lines(files, out))
    if files is None:
        say("nothing was written: --out FOLDER saves the network")


def _formats(request: Request, formats: str | None, out: Path | None) -> list[str]:
    """Checked before the work, as the folder is."""
    if request.meta:
        raise UsageError("an edit needs the network's values: leave out --meta")
    if out is None:
        if formats is not None:
            raise UsageError("--formats says how to write the network, and nothing says where: give --out FOLDER")
        return []
    from skiplab.files import writable_folder
    from skiplab.saved import check_formats

    names = [each.strip() for each in (formats or "python").split(",")]
    check_formats(names, training=request.train)
    writable_folder(out)
    return names


def _selected(request: Request, pattern: str | None) -> "tuple[Program, Skips, Skips]":
    """The program, its skips, and those that are to be edited."""
    from skiplab.finder import find

    program = captured(request)
    if any(tensor.is_meta for tensor in program.tensors.values()):
        raise ModelError(f"{request.model} would fill the memory, and an edit needs its values: use a smaller one")
    skips = find(program)
    selected = skips if pattern is None else skips.at(pattern)
    if not len(selected):
        some = ", ".join(skip.id for skip in skips[:5]) or "none"
        which = "selects none" if pattern is not None else "there is none"
        raise UsageError(f"--skips {pattern or '*'}: {which} of {len(skips)} skips ({some}): see skiplab find")
    inside = [skip for skip in selected if skip.steps is not None]
    if inside:
        rest = ", ".join(skip.id for skip in skips.in_graph()[:5])
        mend = f"choose others with --skips ({rest})" if rest else "write the cell in plain operators"
        raise UsageError(
            f"skip `{inside[0].id}` is a cell state inside the operator `{inside[0].merge}`, where nothing can be "
            f"changed: {mend}"
        )
    return program, skips, selected


def _saved(edited: "Program", out: Path | None, formats: list[str]) -> "pd.DataFrame | None":
    if out is None:
        return None
    from skiplab.saved import save

    return save(edited, out, formats)


def _file_lines(files: "pd.DataFrame", out: Path | None) -> list[str]:
    """Each file with its size, and how far what it gives when read back is from the network."""
    from skiplab import terminal

    rows: list[dict[str, Any]] = [dict(row) for _, row in files.iterrows()]
    width = max(len(row["file"]) for row in rows)
    texts = [
        f"  {row['file']:<{width}}  {terminal.memory(row['bytes']):>9}  difference {row['difference']:.2g}"
        for row in rows
    ]
    return [f"wrote to {out}:", *texts]
