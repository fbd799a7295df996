"""`skiplab prune`: take the blocks out of a network that it misses least."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skiplab.cli.app import Json, Page, app, check_page, print_json, print_lines, say, write_page
from skiplab.cli.common_options import Column, Data, Device, Normalise, columns, formats_of, notes
from skiplab.cli.model_options import Request, on_a_model
from skiplab.errors import DataError, UsageError
from skiplab.training.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

    from skiplab.cli.prune_finetune import Training
    from skiplab.cli.session import Subject
    from skiplab.data.sources import Asked, Batches
    from skiplab.graph.program import Program
    from skiplab.pruning import Pruned
    from skiplab.pruning.summary import Result


@app.command()
@on_a_model
def prune(
    request: Request,
    data: Data,
    keep: Annotated[
        float | None, typer.Option(min=0, max=1, help="Target: keep at most this share of the blocks, as 0.7.")
    ] = None,
    max_loss: Annotated[
        float | None, typer.Option(min=0, help="Target: the error rises by no more than this, as 0.02.")
    ] = None,
    latency: Annotated[float | None, typer.Option(min=0, max=1, help="Target: this share of the time, as 0.6.")] = None,
    by: Annotated[str, typer.Option(help="Rank by lesion, influence, random, first or last.")] = "lesion",
    one_shot: Annotated[bool, typer.Option("--one-shot", help="Rank once, and not after each removal.")] = False,
    unit: Annotated[str, typer.Option(help="Remove each block alone, or all of a module: block, module.")] = "block",
    candidates: Annotated[int, typer.Option(min=1, help="Of how many the lesion is exact; others estimated.")] = 6,
    skips: Annotated[str | None, typer.Option(help="Which may go, by id or path: 'layer2.*' (default: all).")] = None,
    finetune: Annotated[int, typer.Option(min=0, help="Train what is left for so many epochs.")] = 0,
    learning_rate: Annotated[float, typer.Option(help="Of that training.")] = 0.01,
    loss: Annotated[str, typer.Option(help="cross-entropy, mse, bce or file.py:callable.")] = "cross-entropy",
    metric: Annotated[
        str | None, typer.Option(help="error, none or file.py:callable (default: error where there are classes).")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples a batch.")] = 64,
    samples: Annotated[int, typer.Option(min=0, help="Training samples to rank on, drawn; 0 for all.")] = 512,
    split: Annotated[str | None, typer.Option(help="Which part to judge by (default: test).")] = None,
    column: Column = None,
    normalise: Normalise = None,
    out: Annotated[Path | None, typer.Option(help="Write network and frontier there, and go on from it.")] = None,
    formats: Annotated[
        str | None, typer.Option(help="What to save it as, with commas: python, pt2, onnx (default: python,pt2).")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
    report: Page = None,
) -> None:
    """Remove the blocks of a network that it misses least, and say what each removal costs and saves."""
    if report is not None:
        check_page(report)
    from skiplab.cli.output_folder import measurement_identity
    from skiplab.cli.prune_finetune import training_of
    from skiplab.data.sources import Asked
    from skiplab.measure.losses import resolve_loss, resolve_metric
    from skiplab.pruning.summary import Result
    from skiplab.serialization import save

    target = {"keep": keep, "max_change": max_loss, "latency": latency}
    options = {name: value for name, value in target.items() if value is not None}
    if len(options) > 1:
        raise UsageError("--keep, --max-loss and --latency exclude each other: give one target")
    options |= {"by": by, "greedy": not one_shot, "unit": unit, "candidates": candidates, "seed": request.seed}
    asked = Asked(data, batch, samples, split, normalise, columns(column), request.seed)
    wanted = formats_of(formats, out, default="python,pt2", training=request.train)
    with notes():
        work = _work(request, asked, device, skips, (resolve_loss(loss), resolve_metric(metric, loss)))
        recipe = Recipe(epochs=finetune, learning_rate=learning_rate, seed=request.seed) if finetune else None
        training = None if recipe is None else training_of(work.subject.program, asked, recipe, loss, apart=work.apart)
        said = {**options, "skips": skips, "loss": loss, "metric": metric}
        config = measurement_identity(request, asked, work.subject, said)
        pruned = _pruned(work, options, config, out)
        program, row = (pruned.program, None) if training is None else _trained(pruned, training)
        files = save(program, out, wanted) if out else None
    name = "loss" if work.functions[1] is None else "error" if metric in (None, "error") else "metric"
    result = Result(request.model, pruned.frontier, pruned.chosen, name, row, finetune)
    _told(result, config, files, as_json)
    _written(result, config, report, out)


@dataclass(frozen=True)
class _Work:
    """What is pruned, and the data: on `learned` blocks are ranked, on `judged` networks are judged.

    `apart` says whether `learned` are samples of a part of their own.
    """

    subject: "Subject"
    learned: list[Any]
    judged: "Batches"
    functions: tuple[Any, Any]
    apart: bool


def _work(request: Request, asked: "Asked", device: str, skips: str | None, functions: tuple[Any, Any]) -> _Work:
    """Everything that can be wrong with the request is said here, before anything takes long."""
    from skiplab.cli.session import subject
    from skiplab.data.sources import batches, quartered, to_learn_from
    from skiplab.measure.losses import try_on

    given = subject(request, replace(asked, samples=0), device, skips)
    if not len(given.skips):
        raise DataError("there is no skip connection whose branch could be removed: see skiplab find")
    try_on(given.program, given.batches, functions, given.targets)
    source = to_learn_from(asked, given.source)
    if source is not None:
        return _Work(given, list(batches(given.program, source, asked)), given.batches, functions, apart=True)
    say("note: the data have one part: of each batch three quarters rank blocks, one quarter judges")
    learned, judged = quartered(given.program, given.batches)
    return _Work(given, list(learned), judged, functions, apart=False)


def _pruned(work: _Work, options: dict[str, Any], config: dict[str, Any], out: Path | None) -> "Pruned":
    from skiplab.cli import render
    from skiplab.cli.output_folder import resume_hint
    from skiplab.pruning import prune
    from skiplab.pruning.frontier_store import FrontierStore
    from skiplab.stats.wording import plural

    store = FrontierStore(out, config)
    if store.before:
        say(f"resuming after {plural(len(store.before), 'network')}")
    try:
        with render.bar("blocks removed") as progress:
            pruned = prune(
                work.subject.program,
                work.subject.skips,
                work.learned,
                work.judged,
                *work.functions,
                **options,
                probe=getattr(work.functions[0], "probe", None),
                before=store.before,
                on_row=store.add,
                progress=progress,
            )
    except (KeyboardInterrupt, SystemExit):
        say(f"stopped; {resume_hint(out)}")
        raise
    store.finish(pruned.frontier)
    return pruned


def _trained(pruned: "Pruned", training: "Training") -> "tuple[Program, dict[str, Any]]":
    """The chosen network after training, and its row."""
    from skiplab.cli import render
    from skiplab.pruning import finetuned

    epochs = training.recipe.epochs
    with render.bar("training") as progress:
        better = finetuned(pruned.program, training.data, training.recipe, lambda row: progress(row["epoch"], epochs))
    return better, pruned.judge.row(better)


def _told(result: "Result", config: dict[str, Any], files: "pd.DataFrame | None", as_json: bool) -> None:
    from skiplab.cli import render
    from skiplab.pruning.summary import SHOWN, rows, sentences

    if as_json:
        from skiplab.serialization.json_schema import prune_json

        print_json(prune_json(config, result.frontier, result.chosen, result.trained, list(sentences(result)), files))
        return
    print_lines([f"what {result.model} can do without"])
    render.stdout().print(render.measured_table(rows(result), SHOWN))
    print_lines([f"– {sentence}" for sentence in sentences(result)])
    for file in [] if files is None else files.to_dict("records"):
        say(f"wrote {file['file']}, which differs by {file['difference']:.2g} when read back")


def _written(result: "Result", config: dict[str, Any], report: Path | None, out: Path | None) -> None:
    """The page, and beside the network the chart."""
    if report is None and out is None:
        return
    from skiplab.pruning.summary import sentences
    from skiplab.report import prune_page

    told = list(sentences(result))
    write_page(prune_page(result.model, told, result.frontier, result.chosen, result.trained, config), report, out)
    if out is not None:
        say(f"wrote frontier, chart and config to {out}")
