"""`skiplab study compare`: compare networks of the user on their data."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import typer

from skiplab.cli.app import print_message
from skiplab.cli.common_options import DataOptions, Device, warnings_on_stderr
from skiplab.cli.model_options import ModelKeywords, ModelOptions, parse_kwargs
from skiplab.cli.option_groups import with_options
from skiplab.cli.study import PREPARING, Destination, Fresh, reproducing_command, run_and_report, study_app
from skiplab.errors import UsageError
from skiplab.training.recipe import Recipe


@study_app.command("compare")
@with_options(
    leave_out=("seed",), recipe="Training", destination="Output", model_keywords="Models of Skiplab and of libraries"
)
def compare(
    context: typer.Context,
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL MODEL…", help="Two or more models; NAME=MODEL sets a name.")
    ],
    data: DataOptions,
    recipe: Recipe,
    destination: Destination,
    model_keywords: ModelKeywords,
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
    kwargs: Annotated[
        list[str] | None,
        typer.Option(
            help="Keyword arguments, as a JSON object: {…} for all networks of Skiplab and of libraries, "
            "NAME={…} for one network."
        ),
    ] = None,
    device: Device = "auto",
    fresh: Fresh = False,
) -> None:
    """Train your own networks on your own data, side by side: errors, gradients, paths and lesions of each."""
    print_message(PREPARING)
    from skiplab import study
    from skiplab.cli.train_plan import shape_of
    from skiplab.data.sources import dataset
    from skiplab.study.comparison import load_model

    named = _parse_names(models)
    options = model_keywords_of(named, model_keywords, kwargs or [])
    first = next(iter(named))
    example = ModelOptions(named[first], kwargs=json.dumps(options[first]))
    with warnings_on_stderr():
        splits = dataset(data.request(), lambda: shape_of(example))
    variants = {
        name: partial(load_model, model, options[name]) if options[name] else model for name, model in named.items()
    }
    run_and_report(
        reproducing_command(context),
        "compare",
        lambda store, count, listener: study.compare(
            variants,
            splits,
            seeds=seeds,
            recipe=recipe,
            device=device,
            store=store,
            workers=count,
            listener=listener,
            fresh=fresh,
        ),
        destination,
    )


def _parse_names(models: list[str]) -> dict[str, str]:
    """The models by name: NAME of NAME=MODEL, else MODEL."""
    found: dict[str, str] = {}
    for text in models:
        name, sign, spec = text.partition("=")
        name, spec = (name, spec) if sign else (text, text)
        if not name or not spec:
            raise UsageError(f"{text}: write NAME=MODEL or MODEL")
        if name in found:
            raise UsageError(f"two networks are called {name}: give them different names with NAME=MODEL")
        found[name] = spec
    return found


def model_keywords_of(
    models: Mapping[str, str], keywords: ModelKeywords, kwargs: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Keyword arguments of each network: those for all networks of Skiplab and of libraries, then its own."""
    options = {name: keywords.for_model(model) if _has_known_options(model) else {} for name, model in models.items()}
    for text in sorted(kwargs, key=lambda text: not text.lstrip().startswith("{")):  # those for all networks first
        name, sign, value = text.partition("=")
        is_for_one = bool(sign) and name in models
        if not is_for_one and not text.lstrip().startswith("{"):
            raise UsageError(f"--kwargs {text}: write '{{…}}', or NAME='{{…}}' with NAME one of {', '.join(models)}")
        names = [name] if is_for_one else [each for each, model in models.items() if _has_known_options(model)]
        if not names:
            first = next(iter(models))
            raise UsageError(
                f"--kwargs {text}: no network is of Skiplab or of a library; for your own networks give the name: "
                f"--kwargs '{first}={{…}}'"
            )
        for name in names:
            options[name] |= parse_kwargs(value if is_for_one else text)
    return options


def _has_known_options(model: str) -> bool:
    from skiplab.loading.libraries import LIBRARIES

    return ":" not in model or model.partition(":")[0] in LIBRARIES
