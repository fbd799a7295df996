"""`skiplab train`: does a network train, and how well."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skiplab.cli.app import Json, Page, app, check_page, print_json, print_lines, say, write_page
from skiplab.cli.common_options import Column, Data, DataSeed, Device, Normalise, Samples, Split, columns, notes
from skiplab.cli.model_options import Request, on_a_model
from skiplab.cli.recipe_options import that_trains
from skiplab.errors import UsageError
from skiplab.training.recipe import Recipe

if TYPE_CHECKING:
    from skiplab.training.seeds import Plan, Trial


@app.command()
@partial(on_a_model, without=("train", "meta", "trust", "seed"))
@that_trains
def train(
    request: Request,
    data: Data,
    recipe: Recipe,
    seeds: Annotated[str, typer.Option(help="A run each, of initial weights and order: 0,1,2.")] = "0",
    samples: Samples = 0,
    split: Split = None,
    column: Column = None,
    normalise: Normalise = None,
    data_seed: DataSeed = 0,
    out: Annotated[Path | None, typer.Option(help="Keep each run there, in seed-N, and go on from it.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over in the folder of --out.")] = False,
    device: Device = "auto",
    as_json: Json = False,
    report: Page = None,
) -> None:
    """Train a network on labelled data, and say how well it did; exits with 1 if a run diverged."""
    if report is not None:
        check_page(report)
    chosen = _seeds(seeds, recipe)
    if fresh and out is None:
        raise UsageError("--fresh starts over in the folder of --out: give both, or none")
    from skiplab.cli.train_plan import config_of, plan_of
    from skiplab.data.sources import Asked

    asked = Asked(data, recipe.batch_size, samples, split, normalise, columns(column), data_seed)
    with notes():
        plan = plan_of(request, asked, recipe, device, out)
        config = config_of(request, plan, chosen[0], fresh=fresh)
        trials = _trials(plan, chosen)
    _told(request.model, plan, trials, config, as_json=as_json, report=report)
    if any(trial.why for trial in trials):
        raise typer.Exit(1)


def _seeds(seeds: str, recipe: Recipe) -> list[int]:
    try:
        numbers = list(dict.fromkeys(int(each) for each in seeds.split(",")))
    except ValueError:
        raise UsageError(f"--seeds {seeds}: write numbers with commas, such as 0,1,2") from None
    return [replace(recipe, seed=number).seed for number in numbers]  # which checks them


def _trials(plan: "Plan", seeds: list[int]) -> list["Trial"]:
    """A run a seed; stopped, it says what is finished and how to go on."""
    from skiplab.cli.output_folder import resume_hint
    from skiplab.cli.train_progress import Bar
    from skiplab.training.seeds import trained

    trials: list[Trial] = []
    try:
        with Bar(plan.recipe.epochs, len(seeds)) as bar:
            for seed in seeds:
                trials.append(trained(plan, seed, partial(bar.epoch, seed)))
                bar.finish(trials[-1])
    except (KeyboardInterrupt, SystemExit):
        done = "; ".join(map(str, trials)) or "no run yet"
        say(f"stopped; finished: {done}; {resume_hint(plan.out)}")
        raise
    return trials


def _told(  # what the command has found, and how it is wanted
    model: str, plan: "Plan", trials: list["Trial"], config: dict[str, Any], *, as_json: bool, report: Path | None
) -> None:
    from skiplab.cli import render
    from skiplab.training import summary

    runs, curves = summary.table(trials), summary.curves(trials)
    chances = config["data"]["chance"]
    sentences = list(summary.sentences(trials, model, chances["train"], chances["test"]))
    if as_json:
        from skiplab.serialization.json_schema import train_json

        print_json(train_json(config, runs, curves, summary.summary(runs), sentences))
    else:
        data = plan.data
        print_lines(
            [f"{model} on {data.name}: {len(data.train):,} examples to learn from, {len(data.test):,} to judge by"]
        )
        render.stdout().print(render.plain_table(summary.HEADINGS, summary.cells(runs)))
        print_lines([f"– {sentence}" for sentence in sentences])
    if report is not None:
        from skiplab.report import train_page

        page = train_page(f"How {model} trains on {plan.data.name}", sentences, (curves, runs), chances, config)
        write_page(page, report, None)
