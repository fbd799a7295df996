"""The recipe of a training as options: the commands that train have the same ones."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from skiplab.training.recipe import Recipe


def recipe_of(
    epochs: Annotated[int, typer.Option(help="Passes over the training part.")] = Recipe.epochs,
    batch: Annotated[int, typer.Option(help="Examples a step.")] = Recipe.batch_size,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = Recipe.learning_rate,
    momentum: Annotated[float, typer.Option(help="Of SGD; AdamW's β₁.")] = Recipe.momentum,
    weight_decay: Annotated[float, typer.Option(help="On all weights.")] = Recipe.weight_decay,
    schedule: Annotated[str, typer.Option(help="Of the learning rate: cosine or step.")] = Recipe.schedule,
    warmup: Annotated[float, typer.Option(help="Epochs in which the rate climbs.")] = Recipe.warmup_epochs,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = Recipe.optimizer,
    clip: Annotated[float | None, typer.Option(help="Norm to which longer gradients are shortened.")] = Recipe.clip,
    augment: Annotated[str, typer.Option(help="Of pictures: none, crop or crop-flip.")] = Recipe.augment,
    padding: Annotated[int, typer.Option(help="Pixels on each side of what is cropped.")] = Recipe.padding,
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed or fast.")] = Recipe.precision,
    judged: Annotated[int, typer.Option(help="Training examples to judge by before the end; 0 for all.")] = 0,
) -> Recipe:
    """What the options say, which the recipe checks."""
    rates = {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    kinds: dict[str, Any] = {"schedule": schedule, "precision": precision, "optimizer": optimizer, "augment": augment}
    sizes = {"epochs": epochs, "batch_size": batch, "padding": padding, "judged": judged}
    return Recipe(warmup_epochs=warmup, clip=clip, **sizes, **rates, **kinds)


def that_trains(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command, in the place of its parameter `recipe`, the options of one."""
    options = inspect.signature(recipe_of).parameters
    both: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        both += options.values() if parameter.name == "recipe" else [parameter]

    @functools.wraps(command)
    def run(*given: Any, **named: Any) -> None:
        recipe = recipe_of(**{name: named.pop(name) for name in options})
        command(*given, recipe=recipe, **named)

    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in both]
    )
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in both}
    return run
