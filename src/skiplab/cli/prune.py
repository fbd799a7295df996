"""`skiplab prune`: remove the blocks that a network misses least."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skiplab.cli.app import Json, Page, app, check_page, print_json, print_lines, say, write_page
from skiplab.cli.common_options import Column, Data, Device, Normalise, columns, formats_of, notes
from skiplab.cli.model_options import Request, on_a_model
from skiplab.errors import DataError
from skiplab.pruning.options import Criterion, UnitKind, check_options
from skiplab.training.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

    from skiplab.cli.prune_finetune import FinetunePlan
    from skiplab.cli.session import Subject
    from skiplab.data.sources import Asked, Batches
    from skiplab.graph.program import Program
    from skiplab.pruning import Pruned
    from skiplab.pruning.frontier_store import FrontierStore
    from skiplab.pruning.summary import PruningSummary

_TARGET, _RANKING, _EVALUATION, _TRAINING, _OUTPUT = (
    "Target",
    "Ranking",
    "Evaluation",
    "Fine-tuning",
    "Output",
)  # panels


@app.command()
@on_a_model
def prune(
    request: Request,
    data: Data,
    keep: Annotated[
        float | None, typer.Option(help="Largest share of blocks to keep, such as 0.7.", rich_help_panel=_TARGET)
    ] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="Largest rise of the error, such as 0.02.", rich_help_panel=_TARGET)
    ] = None,
    latency: Annotated[
        float | None,
        typer.Option(help="Largest share of the whole network's time, such as 0.6.", rich_help_panel=_TARGET),
    ] = None,
    by: Annotated[Criterion, typer.Option(help="What ranks the blocks.", rich_help_panel=_RANKING)] = "lesion",
    one_shot: Annotated[
        bool, typer.Option("--one-shot", help="Rank once instead of after each removal.", rich_help_panel=_RANKING)
    ] = False,
    unit: Annotated[
        UnitKind, typer.Option(help="Remove one block at a time, or all of a module.", rich_help_panel=_RANKING)
    ] = "block",
    candidates: Annotated[
        int, typer.Option(help="Blocks whose lesion is exact; others are estimated.", rich_help_panel=_RANKING)
    ] = 6,
    skips: Annotated[
        str | None,
        typer.Option(help="Skips to choose from, by id or path: 'layer2.*' (default: all).", rich_help_panel=_RANKING),
    ] = None,
    finetune: Annotated[
        int, typer.Option(min=0, help="Epochs of training after pruning.", rich_help_panel=_TRAINING)
    ] = 0,
    lr: Annotated[float, typer.Option(help="Peak learning rate of that training.", rich_help_panel=_TRAINING)] = 0.01,
    loss: Annotated[
        str, typer.Option(help="cross-entropy, mse, bce or file.py:callable.", rich_help_panel=_EVALUATION)
    ] = "cross-entropy",
    metric: Annotated[
        str | None,
        typer.Option(
            help="error, none or file.py:callable (default: error where there are classes).",
            rich_help_panel=_EVALUATION,
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", help="Samples per batch.", rich_help_panel=_EVALUATION)
    ] = 64,
    samples: Annotated[
        int, typer.Option(help="Training samples to rank on, drawn; 0 for all.", rich_help_panel=_RANKING)
    ] = 512,
    split: Annotated[
        str | None, typer.Option(help="Part to evaluate on (default: test).", rich_help_panel=_EVALUATION)
    ] = None,
    column: Column = None,
    normalise: Normalise = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for network and frontier; a stopped run continues there.", rich_help_panel=_OUTPUT),
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(help="Comma-separated: python, pt2, onnx (default: python,pt2).", rich_help_panel=_OUTPUT),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
    report: Page = None,
) -> None:
    """Remove the blocks that a network misses least, and report what each removal costs and saves."""
    if report is not None:
        check_page(report)
    targets = {"keep": keep, "max_change": max_loss, "latency": latency}
    options: dict[str, Any] = {name: value for name, value in targets.items() if value is not None}
    options |= {"by": by, "greedy": not one_shot, "unit": unit, "candidates": candidates, "seed": request.seed}
    check_options(options)
    wanted = formats_of(formats, out, default="python,pt2", training=request.train)
    from skiplab.cli.output_folder import measurement_identity
    from skiplab.data.sources import Asked
    from skiplab.measure.losses import resolve_loss, resolve_metric
    from skiplab.pruning.frontier_store import FrontierStore

    asked = Asked(data, batch_size, samples, split, normalise, columns(column), request.seed)
    with notes():
        setup = _setup(request, asked, device, skips, (resolve_loss(loss), resolve_metric(metric, loss)))
        recipe = Recipe(epochs=finetune, learning_rate=lr, seed=request.seed) if finetune else None
        plan = None if recipe is None else _plan(setup, asked, recipe, loss)
        settings = {**options, "skips": skips, "loss": loss, "metric": metric}
        config = measurement_identity(request, asked, setup.subject, settings)
        pruned = _prune(setup, options, FrontierStore(out, config), out)
        program, row = (pruned.program, None) if plan is None else _finetune(pruned, plan)
        files = _saved(program, out, wanted)
    quantity = "loss" if setup.functions[1] is None else "error" if metric in (None, "error") else "metric"
    summary = pruned.summary(quantity, row, finetune)
    _print(request.model, summary, config, files, as_json)
    _write(request.model, summary, config, report, out)


@dataclass(frozen=True)
class PruneSetup:
    """A network and the batches that it is pruned with.

    Attributes:
        subject: the network with its skips.
        ranking: batches that rank blocks.
        evaluation: batches that evaluate networks.
        functions: the loss, and the metric or None.
        has_training_part: whether `ranking` comes from a training part of its own.
    """

    subject: "Subject"
    ranking: list[Any]
    evaluation: "Batches"
    functions: tuple[Any, Any]
    has_training_part: bool


def _setup(request: Request, asked: "Asked", device: str, skips: str | None, functions: tuple[Any, Any]) -> PruneSetup:
    """Loads and checks everything, before anything slow runs."""
    from skiplab.cli.session import subject
    from skiplab.data.sources import batches, quartered, to_learn_from
    from skiplab.measure.losses import try_on

    given = subject(request, replace(asked, samples=0), device, skips)
    if not len(given.skips):
        raise DataError("there is no skip connection whose branch can be removed: see skiplab find")
    try_on(given.program, given.batches, functions, given.targets)
    source = to_learn_from(asked, given.source)
    if source is not None:
        ranking = list(batches(given.program, source, asked))
        return PruneSetup(given, ranking, given.batches, functions, has_training_part=True)
    say("note: the data have one part: three quarters of each batch rank blocks, one quarter evaluates networks")
    learned, held_out = quartered(given.program, given.batches)
    return PruneSetup(given, list(learned), held_out, functions, has_training_part=False)


def _plan(setup: PruneSetup, asked: "Asked", recipe: Recipe, loss: str) -> "FinetunePlan":
    from skiplab.cli.prune_finetune import finetune_plan

    return finetune_plan(setup.subject.program, asked, recipe, loss, has_training_part=setup.has_training_part)


def _prune(setup: PruneSetup, options: dict[str, Any], store: "FrontierStore", out: Path | None) -> "Pruned":
    from skiplab.cli import render
    from skiplab.cli.output_folder import resume_hint
    from skiplab.pruning import prune
    from skiplab.stats.wording import plural

    if store.before:
        say(f"resuming after {plural(len(store.before), 'network')}")
    try:
        with render.bar("blocks removed") as progress:
            pruned = prune(
                setup.subject.program,
                setup.subject.skips,
                setup.ranking,
                setup.evaluation,
                *setup.functions,
                **options,
                probe=getattr(setup.functions[0], "probe", None),
                before=store.before,
                on_row=store.add,
                progress=progress,
            )
    except (KeyboardInterrupt, SystemExit):
        say(f"stopped; {resume_hint(out)}")
        raise
    store.finish(pruned.frontier)
    return pruned


def _finetune(pruned: "Pruned", plan: "FinetunePlan") -> "tuple[Program, dict[str, Any]]":
    """The chosen network after training, and its row."""
    from skiplab.cli import render
    from skiplab.pruning import finetuned

    epochs = plan.recipe.epochs
    with render.bar("training") as progress:
        trained = finetuned(pruned.program, plan.data, plan.recipe, lambda row: progress(row["epoch"], epochs))
    return trained, pruned.evaluator.row(trained)


def _saved(program: "Program", out: Path | None, formats: list[str]) -> "pd.DataFrame | None":
    if out is None:
        return None
    from skiplab.serialization import save

    return save(program, out, formats)


def _print(
    model: str, summary: "PruningSummary", config: dict[str, Any], files: "pd.DataFrame | None", as_json: bool
) -> None:
    from skiplab.cli import render
    from skiplab.pruning.summary import COLUMNS

    if as_json:
        from skiplab.serialization.json_schema import prune_json

        print_json(prune_json(config, summary.frontier, summary.chosen, summary.finetuned, summary.answer(), files))
        return
    print_lines([f"pruning {model}"])
    render.stdout().print(render.measured_table(summary.table(), COLUMNS))
    print_lines([f"– {sentence}" for sentence in summary.answer()])
    for file in [] if files is None else files.to_dict("records"):
        say(f"wrote {file['file']}; its outputs, read back, differ by {file['difference']:.2g}")


def _write(
    model: str, summary: "PruningSummary", config: dict[str, Any], report: Path | None, out: Path | None
) -> None:
    """The page, and the chart in the folder of the network."""
    if report is None and out is None:
        return
    from skiplab.report import prune_page

    page = prune_page(model, summary.answer(), summary.frontier, summary.chosen, summary.finetuned, config)
    write_page(page, report, out)
    if out is not None:
        say(f"wrote frontier, chart and config to {out}")
