"""`skiplab find` and `skiplab census`: the skip connections of a network, and its paths."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skiplab.cli.app import Json, Page, app, print_json, print_lines, write_page
from skiplab.cli.model_options import ModelOptions, capture_model
from skiplab.cli.option_groups import with_options
from skiplab.errors import ProofError, SelectionError, UsageError

if TYPE_CHECKING:
    from skiplab.analysis.path_census import Census
    from skiplab.analysis.skips import Skips
    from skiplab.graph.program import Program
    from skiplab.verification import Proof


@app.command()
@with_options()
def find(
    model: ModelOptions,
    expect: Annotated[int | None, typer.Option(help="Expected number of skips; exit with 1 if it differs.")] = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Check each skip numerically; exit with 1 if one fails.")
    ] = False,
    show_all: Annotated[
        bool, typer.Option("--all", help="Also list non-skips: gates, fusion, foldable sums, unknown merges.")
    ] = False,
    as_json: Json = False,
    report: Page = None,
) -> None:
    """List every skip connection of a network, and count its paths."""
    if prove and (model.meta or model.train):
        option = "--meta" if model.meta else "--train"
        raise UsageError(f"--prove needs the values of the inference graph: leave out {option}")
    from skiplab.analysis.finder import find
    from skiplab.analysis.path_census import census

    program = capture_model(model)
    skips, counts = find(program), census(program)
    proof = _prove_skips(program, skips) if prove else None
    if as_json:
        from skiplab.serialization.json_schema import find_json

        print_json(find_json(model.spec, program, skips, counts, proof))
    else:
        _print_skips(skips, counts, proof, show_all)
    if report is not None:
        _write_page(model.spec, program, skips, counts, report)
    if proof is not None and proof.failures:
        raise ProofError(f"{model.spec}: {len(proof.failures)} of {len(skips)} skips are not proved")
    if expect is not None and expect != len(skips):
        raise SelectionError(f"{model.spec}: expected {expect} skips, found {len(skips)}")


@app.command()
@with_options()
def census(
    model: ModelOptions,
    count_norms: Annotated[
        bool, typer.Option("--count-norms", help="Count LayerNorm, RMSNorm and GroupNorm as nonlinear.")
    ] = False,
    output: Annotated[int, typer.Option(help="Index of the output at which the paths end.")] = 0,
    as_json: Json = False,
    report: Page = None,
) -> None:
    """Count a network's paths from input to output, by nonlinearities and weight layers."""
    from skiplab.analysis.finder import find
    from skiplab.analysis.path_census import COUNTED, NONLINEAR, census

    program = capture_model(model)
    counts = census(program, count=COUNTED if count_norms else NONLINEAR, output=output)
    if as_json:
        from skiplab.serialization.json_schema import census_json

        print_json(census_json(model.spec, counts))
    else:
        from skiplab.cli import console, lines, terminal_tables

        print_lines(lines.census_lines(counts))
        console.stdout().print(terminal_tables.witness_table(counts))
    if report is not None:
        _write_page(model.spec, program, find(program), counts, report)


def _prove_skips(program: "Program", skips: "Skips") -> "Proof":
    from skiplab.cli import console
    from skiplab.verification import prove

    with console.progress_bar("proving") as progress:
        return prove(program, skips, progress=progress)


def _print_skips(skips: "Skips", counts: "Census", proof: "Proof | None", show_all: bool) -> None:
    from skiplab.cli import console, lines, terminal_tables

    out = console.stdout()
    if len(skips):
        out.print(terminal_tables.skips_table(skips, out.width))
    if show_all and skips.non_skips:
        out.print()
        out.print(terminal_tables.non_skips_table(skips))
        out.print()
    print_lines([lines.skips_line(skips)])
    if proof is not None:
        print_lines(lines.proof_lines(proof))
    print_lines(lines.census_lines(counts))


def _write_page(model: str, program: "Program", skips: "Skips", counts: "Census", path: Path) -> None:
    from skiplab.analysis import chart_data
    from skiplab.cli import lines
    from skiplab.report import model_page
    from skiplab.serialization.json_schema import find_json

    tables = {
        "spine": chart_data.spine(program, skips),
        "skips": chart_data.placed(program, skips),
        "non_skips": chart_data.non_skips(skips),
        "histogram": chart_data.histogram(counts),
        "witness": chart_data.witness(counts),
    }
    sentences = [lines.skips_line(skips), *lines.census_lines(counts)]
    facts = find_json(model, program, skips, counts)["capture"]
    write_page(model_page(model, sentences, tables, facts), path, None)
