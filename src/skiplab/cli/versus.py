"""`skiplab study compare`: anyone's networks, compared as those of a study are."""

from typing import Annotated, Any

import typer

from skiplab.cli.app import Json
from skiplab.cli.options import Column, Data, Device, Normalise, columns, notes
from skiplab.cli.study import Destination, Fresh, Out, Report, Runs, Workers, answer, repeating, study_app
from skiplab.errors import UsageError
from skiplab.recipe import Recipe


@study_app.command("compare")
def compare(
    context: typer.Context,
    models: Annotated[list[str], typer.Argument(metavar="MODEL MODEL…", help="Two or more; NAME=MODEL names one.")],
    data: Data,
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
    epochs: Annotated[int, typer.Option(help="Passes over the training part.")] = Recipe.epochs,
    batch: Annotated[int, typer.Option(help="Examples a step.")] = Recipe.batch_size,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = Recipe.learning_rate,
    weight_decay: Annotated[float, typer.Option(help="On all weights.")] = Recipe.weight_decay,
    warmup: Annotated[float, typer.Option(help="Epochs in which the rate climbs.")] = Recipe.warmup_epochs,
    schedule: Annotated[str, typer.Option(help="Of the learning rate: cosine or step.")] = Recipe.schedule,
    samples: Annotated[int, typer.Option(min=0, help="Examples of each part, drawn at random; 0 for all.")] = 0,
    split: Annotated[str | None, typer.Option(help="The part to judge by (default: test, else validation).")] = None,
    column: Column = None,
    normalise: Normalise = None,
    report: Report = None,
    out: Out = None,
    runs: Runs = None,
    workers: Workers = None,
    device: Device = "auto",
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Train your own networks on your own data, side by side: errors, gradients, paths and lesions of each."""
    from skiplab import study
    from skiplab.resolve import resolve
    from skiplab.sources import Asked, dataset

    variants = _named(models)
    kinds: dict[str, Any] = {"schedule": schedule}  # which the recipe checks
    rates = {"learning_rate": learning_rate, "weight_decay": weight_decay, "warmup_epochs": warmup}
    recipe = Recipe(epochs=epochs, batch_size=batch, **rates, **kinds)
    asked = Asked(data, samples=samples, split=split, normalise=normalise, columns=columns(column))
    with notes():
        learned = dataset(asked, lambda: tuple(resolve(next(iter(variants.values()))).args[0].shape[1:]))
    answer(
        repeating(context),
        "compare",
        lambda store, count, listener: study.compare(
            variants,
            learned,
            seeds=seeds,
            recipe=recipe,
            device=device,
            store=store,
            workers=count,
            listener=listener,
            fresh=fresh,
        ),
        Destination(report, out, runs, workers, as_json),
    )


def _named(models: list[str]) -> dict[str, str]:
    """Each MODEL by its name: the one given, else itself."""
    found: dict[str, str] = {}
    for text in models:
        name, sign, spec = text.partition("=")
        name, spec = (name, spec) if sign else (text, text)
        if not name or not spec:
            raise UsageError(f"{text}: write NAME=MODEL, or MODEL alone")
        if name in found:
            raise UsageError(f"two networks are called {name}: write NAME=MODEL to tell them apart")
        found[name] = spec
    return found
