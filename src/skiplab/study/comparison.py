"""Anyone's networks, compared as those of a study are: same data, same recipe, several seeds."""

import hashlib
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from skiplab.data import DataSet, Split, batches
from skiplab.errors import DataError, UsageError
from skiplab.graph.capture import capture
from skiplab.io.atomic import replacing
from skiplab.io.hashing import checksum
from skiplab.loading.resolve import resolve
from skiplab.report.figure_spec import TEST_ERROR, TRAIN_ERROR, Axis, Figure
from skiplab.study.charts import CURVES, NETWORKS
from skiplab.study.grid import Listener, Report, Silent, available_workers
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.result import Result
from skiplab.study.run import run_study
from skiplab.study.run_cell import (
    STRUCTURE,
    RunContext,
    build_with_seed,
    save_tables,
    split_gradient,
    train_and_measure,
)
from skiplab.study.sentences import compare_shares, lesion_sentences, most_linear_path_sentence
from skiplab.training.loop import must_fit, must_learn
from skiplab.training.recipe import Recipe

Build = Callable[[], nn.Module]
Variant = Build | str

ERROR_FIGURE = Figure(
    name="errors",
    heading="Errors",
    how="One point a seed; the tick is their mean, the line its 95 % interval (Student's t). A cross is a run that "
    "diverged.",
    chart="points",
    table="runs",
    x=Axis("variant", "network", "steps"),
    y=(TRAIN_ERROR, TEST_ERROR),
)
VALUE_ERRORS = (  # what is an error where no classes are told apart
    Axis("train_error", "unexplained variance of the training part", "share"),
    Axis("test_error", "unexplained variance of the test part", "share"),
)


def compare(
    variants: Mapping[str, Variant],
    data: DataSet,
    *,
    seeds: int = 3,
    recipe: Recipe | None = None,
    device: str = "auto",
    store: Path | str | None = None,
    workers: int | None = None,
    listener: Listener | None = None,
    fresh: bool = False,
) -> Result:
    """Trains each network from each seed, measures it before and after, and says how they differ.

    Args:
        variants: by name, what builds each network: a function without arguments that draws its initial weights
            from torch's random state, or what the command line calls a MODEL, such as "net.py:build". The first is
            the one that the others are held against.
        data: what all learn from and are judged by.
        seeds: how many, from 0: of initial weights and of the order of examples. Comparisons are paired by them.
        recipe: how all are trained; its seed does not count.
        device: one of auto, cpu, cuda, cuda:N and mps.
        store: a folder in which finished runs are kept and not repeated; None keeps nothing.
        workers: networks trained at once, one thread each; by default one a core. Functions that no other process
            can import (lambdas, those of a notebook) are trained one after the other in this one.
        listener: is told of progress, such as `skiplab.cli.study_progress.Bars`.
        fresh: train again what has finished.

    A network whose batch size `capture` cannot leave free is measured on whole batches alone.

    Returns the result as of any study: `tables`, `verdicts`, `save(folder)`.
    """
    if len(variants) < 2:
        raise UsageError(f"{len(variants)} network: give two or more, so that there is something to compare")
    grid = Grid(axes={}, seeds=seeds, recipe=recipe or Recipe(), device=device)
    with TemporaryDirectory() if store is None else nullcontext(str(store)) as folder:
        study = _make_study(variants, data, grid, Path(folder))
        at_once = (workers or available_workers()) if _is_importable(study.work) else 0
        result = run_study(study, grid, Path(folder), at_once, listener or Silent(), fresh=fresh)
    return replace(result, config={**result.config, **_describe_inputs(variants, data)})


def _make_study(variants: Mapping[str, Variant], data: DataSet, grid: Grid, folder: Path) -> Study:
    errors = (TRAIN_ERROR, TEST_ERROR) if data.classes is not None else VALUE_ERRORS
    return Study(
        name="compare",
        variants=tuple(variants),
        grids={"default": grid},
        work=partial(work, builds=dict(variants), data=_write_data(data, folder)),
        sentences=partial(sentences, errors=errors),
        figures=(replace(ERROR_FIGURE, y=errors), CURVES, *NETWORKS),
        outcomes=errors,
        seed_invariant=STRUCTURE,
        postprocess=split_gradient,
        identity=partial(_identity, variants, data),
    )


def _describe_inputs(variants: Mapping[str, Variant], data: DataSet) -> dict[str, Any]:
    """What else a result has to tell to be known again: what the names stand for, and which data."""
    called = {
        name: getattr(each, "__qualname__", type(each).__name__) if callable(each) else each
        for name, each in variants.items()
    }
    sizes = {"train": len(data.train), "test": len(data.test), "classes": data.classes}
    return {"networks": called, "data": {"name": data.name, **sizes, "fingerprint": data.fingerprint()}}


def sentences(tables: Tables, errors: tuple[Axis, Axis] = (TRAIN_ERROR, TEST_ERROR)) -> Iterator[str]:
    """Each network against the first."""
    runs = tables["runs"]
    first, *others = dict.fromkeys(runs["variant"])
    for axis in reversed(errors):
        for other in others:
            yield compare_shares(runs, {"variant": first}, {"variant": other}, axis.column, axis.title)
    yield most_linear_path_sentence(tables["census"], [{"variant": variant} for variant in (first, *others)])
    for variant in (first, *others):
        yield from lesion_sentences(tables, {"variant": variant})


def load_model(model: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """What the command line calls a MODEL, with options for what builds it."""
    return resolve(model, ("1",), options).model  # the data say what goes in


def build_network(variant: Variant, seed: int) -> nn.Module:
    """The network with the initial weights of a seed."""
    model = build_with_seed(variant if callable(variant) else partial(load_model, variant), seed)
    if not isinstance(model, nn.Module):
        raise UsageError(f"{variant} gives a {type(model).__name__}: it should build a network")
    return model


def work(settings: Settings, folder: Path, report: Report, *, builds: Mapping[str, Variant], data: Path) -> None:
    """A network of one variant and seed."""
    model = build_network(builds[settings["variant"]], settings["seed"])
    save_tables(train_and_measure(model, _read_data(data), RunContext(settings, folder, report)), folder)


def _identity(variants: Mapping[str, Variant], data: DataSet, settings: Settings) -> Settings:
    """The network as it learns, as it is judged and as it begins, so that another of the same name is another run."""
    model = build_network(variants[settings["variant"]], settings["seed"])
    try:
        must_fit(deepcopy(model), data.train, data)
        must_learn(model)
    except (DataError, UsageError) as error:
        raise type(error)(f"{settings['variant']}: {error}") from error
    x, _ = next(batches(data.train, 2))
    programs = [capture(model, (x,), train=learning) for learning in (True, False)]
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    text = json.dumps([*(program.code.text for program in programs), frozen])
    tensors = [*model.state_dict().values(), *(each for program in programs for each in program.tensors.values())]
    code = hashlib.sha256(text.encode()).hexdigest()
    return {"code": code, "weights": checksum(tensors), "data": data.fingerprint()}


def _is_importable(work: Any) -> bool:
    """Whether another process can load what builds the networks; what a notebook or script defines, it cannot."""
    try:
        return b"__main__" not in pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False


def _write_data(data: DataSet, store: Path) -> Path:
    """The data in a file that other processes read."""
    known_by = json.dumps([data.fingerprint(), list(data.train.y.shape), list(data.test.y.shape)])
    file = store / f"data-{hashlib.sha256(known_by.encode()).hexdigest()[:16]}.safetensors"
    if not file.exists():
        store.mkdir(parents=True, exist_ok=True)
        about = {"name": data.name, "classes": str(data.classes or "")}
        with replacing(file) as path:
            safetensors.torch.save_file(_unshared_tensors(data), path, about)
    return file


def _unshared_tensors(data: DataSet) -> dict[str, Tensor]:
    """Its tensors by name, none in memory that another has too, as safetensors demands: parts may be views of one."""
    tensors, seen = {}, set()
    for part, split in (("train", data.train), ("test", data.test)):
        for name in ("x", "y"):
            tensor = getattr(split, name).contiguous()
            memory = tensor.untyped_storage().data_ptr()
            tensors[f"{part}.{name}"] = tensor.clone() if memory in seen else tensor
            seen.add(memory)
    return tensors


def _read_data(file: Path) -> DataSet:
    with safetensors.safe_open(file, "pt") as opened:
        about = opened.metadata()
        if about is None:
            raise DataError(f"{file} is damaged: delete it")
        train, test = [Split(*(opened.get_tensor(f"{part}.{name}") for name in "xy")) for part in ("train", "test")]
    return DataSet(about["name"], train, test, int(about["classes"]) if about["classes"] else None)
