"""`skiplab train`: train a network with several seeds, and report its errors."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skiplab.cli.app import Json, Page, app, print_json, print_lines, print_message, write_page
from skiplab.cli.common_options import DataOptions, Device, warnings_on_stderr
from skiplab.cli.model_options import ModelOptions
from skiplab.cli.option_groups import with_options
from skiplab.errors import UsageError
from skiplab.training.recipe import Recipe

if TYPE_CHECKING:
    from skiplab.training.seeds import Plan, Trial


@app.command()
@with_options(leave_out=("train", "meta", "trust", "seed"), recipe="Training")
def train(
    model: ModelOptions,
    data: DataOptions,
    recipe: Recipe,
    seeds: Annotated[
        str, typer.Option(help="Seeds of initial weights and order of data, one run each, such as 0,1,2.")
    ] = "0",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the runs (seed-N each); the same command resumes from it.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove earlier runs in the folder of --out.")] = False,
    device: Device = "auto",
    as_json: Json = False,
    report: Page = None,
) -> None:
    """Train a network on labeled data, and report its errors; exits with 1 if a run diverged."""
    numbers = _parse_seeds(seeds, recipe)
    if fresh and out is None:
        raise UsageError("--fresh removes runs in the folder of --out: give both options, or none")
    from skiplab.cli.train_plan import config_of, plan_of

    with warnings_on_stderr():
        plan = plan_of(model, data.request(recipe.batch_size), recipe, device, out)
        config = config_of(model, plan, numbers[0], fresh=fresh)
        trials = _run_seeds(plan, numbers)
    _print(model.spec, plan, trials, config, as_json=as_json, report=report)
    if any(trial.divergence for trial in trials):
        raise typer.Exit(1)


def _parse_seeds(seeds: str, recipe: Recipe) -> list[int]:
    try:
        numbers = list(dict.fromkeys(int(seed) for seed in seeds.split(",")))
    except ValueError:
        raise UsageError(f"--seeds {seeds}: write comma-separated numbers, such as 0,1,2") from None
    return [replace(recipe, seed=number).seed for number in numbers]  # the recipe checks the range


def _run_seeds(plan: "Plan", seeds: list[int]) -> list["Trial"]:
    """One run per seed; an interruption prints the finished runs and how to resume."""
    from skiplab.cli.output_folder import resume_hint
    from skiplab.cli.train_progress import TrainBar
    from skiplab.training.seeds import train_seed

    trials: list[Trial] = []
    try:
        with TrainBar(plan.recipe.epochs, len(seeds)) as bar:
            for seed in seeds:
                trials.append(train_seed(plan, seed, partial(bar.epoch, seed)))
                bar.finish(trials[-1])
    except (KeyboardInterrupt, SystemExit):
        done = "; ".join(map(str, trials)) or "no run yet"
        print_message(f"stopped; finished: {done}; {resume_hint(plan.out)}")
        raise
    return trials


def _print(
    model: str, plan: "Plan", trials: list["Trial"], config: dict[str, Any], *, as_json: bool, report: Path | None
) -> None:
    from skiplab.cli import console, terminal_tables
    from skiplab.training import summary

    runs, curves = summary.table(trials), summary.curves(trials)
    chances = config["data"]["chance"]
    sentences = list(summary.sentences(trials, model, chances["train"], chances["test"]))
    if as_json:
        from skiplab.serialization.json_schema import train_json

        print_json(train_json(config, runs, curves, summary.summary(runs), sentences))
    else:
        data = plan.data
        print_lines([f"{model} on {data.name}: {len(data.train):,} training samples, {len(data.test):,} test samples"])
        console.stdout().print(terminal_tables.plain_table(summary.HEADINGS, summary.text_rows(runs)))
        print_lines([f"– {sentence}" for sentence in sentences])
    if report is not None:
        from skiplab.report import train_page

        page = train_page(f"How {model} trains on {plan.data.name}", sentences, (curves, runs), chances, config)
        write_page(page, report, None)
