"""`skiplab prune`: remove the blocks of a network with the least effect."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skiplab.cli.app import Json, Page, app, print_json, print_lines, print_message, write_page
from skiplab.cli.common_options import DataOptions, Device, EvaluationOptions, parse_formats, warnings_on_stderr
from skiplab.cli.model_options import ModelOptions
from skiplab.cli.option_groups import with_option_names, with_options
from skiplab.errors import DataError, UsageError
from skiplab.pruning.options import Criterion, UnitKind, check_options
from skiplab.training.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

    from skiplab.cli.prune_finetune import FinetunePlan
    from skiplab.cli.session import MeasuredProgram
    from skiplab.data.sources import Batches, DataRequest
    from skiplab.graph.program import Program
    from skiplab.pruning import Pruned
    from skiplab.pruning.frontier_store import FrontierStore
    from skiplab.pruning.summary import PruningSummary


@dataclass(frozen=True)
class TargetOptions:
    """The stopping criterion; without one, all blocks are removed."""

    keep: Annotated[float | None, typer.Option(help="Largest share of blocks to keep, such as 0.7.")] = None
    max_loss: Annotated[float | None, typer.Option(help="Largest rise of the error, such as 0.02.")] = None
    latency: Annotated[float | None, typer.Option(help="Largest share of the whole network's time, such as 0.6.")] = (
        None
    )


@dataclass(frozen=True)
class RankingOptions:
    """Which blocks are removed first."""

    by: Annotated[Criterion, typer.Option(help="Criterion that ranks the blocks.")] = "lesion"
    one_shot: Annotated[bool, typer.Option("--one-shot", help="Rank once instead of after each removal.")] = False
    unit: Annotated[UnitKind, typer.Option(help="Remove single blocks, or all blocks of a module.")] = "block"
    candidates: Annotated[
        int, typer.Option(help="Number of blocks whose lesion is exact; the others are estimated.")
    ] = 6
    skips: Annotated[
        str | None, typer.Option(help="Skips to choose from, by id or path: 'layer2.*' (default: all).")
    ] = None


@dataclass(frozen=True)
class OutputOptions:
    """Outputs."""

    out: Annotated[
        Path | None, typer.Option(help="Folder for network and frontier; the same command resumes from it.")
    ] = None
    formats: Annotated[str | None, typer.Option(help="Comma-separated: python, pt2, onnx (default: python,pt2).")] = (
        None
    )
    as_json: Json = False
    report: Page = None


@dataclass(frozen=True)
class FinetuneOptions:
    """Training of the pruned network.

    Attributes:
        finetune: epochs of training after pruning.
        learning_rate: peak learning rate of that training.
    """

    finetune: Annotated[int, typer.Option(min=0, help="Epochs of training after pruning.")] = 0
    learning_rate: float = 0.01

    def recipe(self, seed: int) -> Recipe | None:
        """The recipe of that training; None for none."""
        return Recipe(epochs=self.finetune, learning_rate=self.learning_rate, seed=seed) if self.finetune else None


@app.command()
@with_options(leave_out=("data_seed",), defaults={"samples": 512}, training="Fine-tuning")
def prune(
    model: ModelOptions,
    data: DataOptions,
    target: TargetOptions,
    ranking: RankingOptions,
    evaluation: EvaluationOptions,
    output: OutputOptions,
    training: FinetuneOptions,
    device: Device = "auto",
) -> None:
    """Remove the blocks with the least effect, and report the cost and the savings of each removal."""
    out, report, seed = output.out, output.report, model.seed
    options = _prune_options(target, ranking, seed)
    formats = parse_formats(output.formats, out, default="python,pt2", training=model.train)
    from skiplab.cli.output_folder import measurement_identity, save_network
    from skiplab.pruning.frontier_store import FrontierStore

    loss, metric = evaluation.loss, evaluation.metric
    data_request = data.request(evaluation.batch_size, seed)
    with warnings_on_stderr():
        setup = _setup(model, data_request, device, ranking.skips, evaluation.functions())
        recipe = training.recipe(seed)
        plan = None if recipe is None else _plan(setup, data_request, recipe, loss)
        settings = {**options, "skips": ranking.skips, "loss": loss, "metric": metric}
        config = measurement_identity(model, data_request, setup.measured, settings)
        pruned = _prune(setup, options, FrontierStore(out, config), out)
        program, row = (pruned.program, None) if plan is None else _finetune(pruned, plan)
        files = save_network(program, out, formats)
    quantity = "loss" if setup.functions[1] is None else "error" if metric in (None, "error") else "metric"
    summary = pruned.summary(quantity, row, training.finetune)
    _print(model.spec, summary, config, files, output.as_json)
    _write(model.spec, summary, config, report, out)


def _prune_options(target: TargetOptions, ranking: RankingOptions, seed: int) -> dict[str, Any]:
    """Keyword arguments of `skiplab.prune`; raises UsageError for invalid ones."""
    targets = {"keep": target.keep, "max_change": target.max_loss, "latency": target.latency}
    options: dict[str, Any] = {name: value for name, value in targets.items() if value is not None}
    options |= {"by": ranking.by, "greedy": not ranking.one_shot, "unit": ranking.unit}
    options |= {"candidates": ranking.candidates, "seed": seed}
    try:
        check_options(options)
    except UsageError as error:
        raise UsageError(with_option_names(str(error), options)) from None
    return options


@dataclass(frozen=True)
class PruneSetup:
    """A network and the batches to prune it with.

    Attributes:
        measured: the network with its skips.
        ranking: batches that rank blocks.
        evaluation: batches that evaluate networks.
        functions: the loss, and the metric or None.
        has_training_part: whether `ranking` is from a separate training part.
    """

    measured: "MeasuredProgram"
    ranking: list[Any]
    evaluation: "Batches"
    functions: tuple[Any, Any]
    has_training_part: bool


def _setup(
    model: ModelOptions, data_request: "DataRequest", device: str, skips: str | None, functions: tuple[Any, Any]
) -> PruneSetup:
    """Loads the network and the data; raises for invalid ones before the work starts."""
    from skiplab.cli.session import prepare
    from skiplab.data.sources import batches, split_batches, training_part
    from skiplab.measure.losses import try_on

    measured = prepare(model, replace(data_request, samples=0), device, skips)
    if not len(measured.skips):
        raise DataError("there are no skips with a branch to remove: see skiplab find")
    try_on(measured.program, measured.batches, functions, measured.targets)
    source = training_part(data_request, measured.source)
    if source is not None:
        ranking = list(batches(measured.program, source, data_request))
        return PruneSetup(measured, ranking, measured.batches, functions, has_training_part=True)
    print_message(
        "note: the data have one part, so three quarters of each batch rank blocks and one quarter evaluates networks"
    )
    ranking, held_out = split_batches(measured.program, measured.batches)
    return PruneSetup(measured, list(ranking), held_out, functions, has_training_part=False)


def _plan(setup: PruneSetup, data_request: "DataRequest", recipe: Recipe, loss: str) -> "FinetunePlan":
    from skiplab.cli.prune_finetune import finetune_plan

    return finetune_plan(setup.measured.program, data_request, recipe, loss, has_training_part=setup.has_training_part)


def _prune(setup: PruneSetup, options: dict[str, Any], store: "FrontierStore", out: Path | None) -> "Pruned":
    from skiplab.cli import console
    from skiplab.cli.output_folder import resume_hint
    from skiplab.pruning import prune
    from skiplab.stats.wording import plural

    if store.before:
        print_message(f"resuming after {plural(len(store.before), 'network')}")
    try:
        with console.progress_bar("blocks removed") as progress:
            pruned = prune(
                setup.measured.program,
                setup.measured.skips,
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
        print_message(f"stopped; {resume_hint(out)}")
        raise
    store.finish(pruned.frontier)
    return pruned


def _finetune(pruned: "Pruned", plan: "FinetunePlan") -> "tuple[Program, dict[str, Any]]":
    """The pruned network after training, and its row of the frontier."""
    from skiplab.cli import console
    from skiplab.pruning import finetuned

    epochs = plan.recipe.epochs
    with console.progress_bar("training") as progress:
        program = finetuned(pruned.program, plan.data, plan.recipe, lambda row: progress(row["epoch"], epochs))
    return program, pruned.evaluator.row(program)


def _print(
    model: str, summary: "PruningSummary", config: dict[str, Any], files: "pd.DataFrame | None", as_json: bool
) -> None:
    from skiplab.cli import console, terminal_tables
    from skiplab.pruning.summary import COLUMNS

    if as_json:
        from skiplab.serialization.json_schema import prune_json

        print_json(prune_json(config, summary.frontier, summary.chosen, summary.finetuned, summary.answer(), files))
        return
    print_lines([f"pruning {model}"])
    console.stdout().print(terminal_tables.measured_table(summary.table(), COLUMNS))
    print_lines([f"– {sentence}" for sentence in summary.answer()])
    for file in [] if files is None else files.to_dict("records"):
        print_message(f"wrote {file['file']}; after reading it back, outputs differ by {file['difference']:.2g}")


def _write(
    model: str, summary: "PruningSummary", config: dict[str, Any], report: Path | None, out: Path | None
) -> None:
    """Writes the page, and the chart to the folder of the network."""
    if report is None and out is None:
        return
    from skiplab.report import prune_page

    page = prune_page(model, summary.answer(), summary.frontier, summary.chosen, summary.finetuned, config)
    write_page(page, report, out)
    if out is not None:
        print_message(f"wrote frontier, chart and config to {out}")
