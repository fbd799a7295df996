"""Compare the user's networks: same data, same recipe, several seeds."""

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
from skiplab.report.figure_spec import TEST_ERROR, TRAIN_ERROR, Axis
from skiplab.study.charts import CURVES, NETWORK, NETWORKS, errors
from skiplab.study.grid import Listener, Silent, available_workers
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.result import Result
from skiplab.study.run import run_study
from skiplab.study.run_cell import STRUCTURE, RunContext, build_with_seed, split_gradient, train_and_measure
from skiplab.study.sentences import compare_shares, lesion_sentences, most_linear_path_sentence
from skiplab.training.loop import check_sample, check_trainable
from skiplab.training.recipe import Recipe

Build = Callable[[], nn.Module]
Variant = Build | str

VALUE_ERRORS = (  # of regression
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
    """Train each network from each seed, measure it before and after training, and compare the networks.

    Args:
        variants: how to build each network, by its name: a function without arguments that draws its initial weights
            from torch's random state, or a MODEL as on the command line, such as "net.py:build". The first is the
            baseline.
        data: training and test part for all networks.
        seeds: number of seeds, of initial weights and of the order of samples. Comparisons are paired by seed.
        recipe: how all networks are trained; its seed is ignored.
        device: one of auto, cpu, cuda, cuda:N and mps.
        store: a folder for finished runs, which are not repeated; None stores nothing.
        workers: networks trained at once, one thread each; by default one per core. Functions that other processes
            cannot import (lambdas, functions of a notebook) are trained one after the other in this process.
        listener: receives progress, such as `skiplab.study.grid.Listener`.
        fresh: repeat finished runs.

    A network whose captured batch size is fixed is measured on full batches only.

    Returns:
        A result as of any study: `tables`, `sentences`, `save(folder)`.
    """
    if len(variants) < 2:
        raise UsageError(f"{len(variants)} network: give two or more, since a study compares networks")
    grid = Grid(axes={}, seeds=seeds, recipe=recipe or Recipe(), device=device)
    with TemporaryDirectory() if store is None else nullcontext(str(store)) as folder:
        study = _make_study(variants, data, grid, Path(folder))
        processes = (workers or available_workers()) if _is_importable(study.work) else 0
        result = run_study(study, grid, Path(folder), processes, listener or Silent(), fresh=fresh)
    return replace(result, config={**result.config, **_describe_inputs(variants, data)})


def _make_study(variants: Mapping[str, Variant], data: DataSet, grid: Grid, folder: Path) -> Study:
    outcomes = (TRAIN_ERROR, TEST_ERROR) if data.classes is not None else VALUE_ERRORS
    return Study(
        name="compare",
        variants=tuple(variants),
        grids={"default": grid},
        work=partial(work, builds=dict(variants), data=_write_data(data, folder)),
        sentences=partial(sentences, outcomes=outcomes),
        figures=(errors("errors", "Errors", NETWORK, y=outcomes), CURVES, *NETWORKS),
        outcomes=outcomes,
        seed_invariant=STRUCTURE,
        postprocess=split_gradient,
        identity=partial(_identity, variants, data),
    )


def _describe_inputs(variants: Mapping[str, Variant], data: DataSet) -> dict[str, Any]:
    """The part of a result's configuration that identifies the networks and the data."""
    called = {
        name: getattr(each, "__qualname__", type(each).__name__) if callable(each) else each
        for name, each in variants.items()
    }
    sizes = {"train": len(data.train), "test": len(data.test), "classes": data.classes}
    return {"networks": called, "data": {"name": data.name, **sizes, "fingerprint": data.fingerprint()}}


def sentences(tables: Tables, outcomes: tuple[Axis, Axis] = (TRAIN_ERROR, TEST_ERROR)) -> Iterator[str]:
    """Each network compared with the first."""
    runs = tables["runs"]
    first, *others = dict.fromkeys(runs["variant"])
    for axis in reversed(outcomes):
        for other in others:
            yield compare_shares(runs, {"variant": first}, {"variant": other}, axis.column, axis.title)
    yield most_linear_path_sentence(tables["census"], [{"variant": variant} for variant in (first, *others)])
    for variant in (first, *others):
        yield from lesion_sentences(tables, {"variant": variant})


def load_model(model: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """A MODEL as on the command line, with options for the function that builds it."""
    return resolve(model, ("1",), options).model  # a dummy input: the data set gives the real ones


def build_network(variant: Variant, seed: int) -> nn.Module:
    """The network with the initial weights of a seed."""
    model = build_with_seed(variant if callable(variant) else partial(load_model, variant), seed)
    if not isinstance(model, nn.Module):
        raise UsageError(f"{variant} returns a {type(model).__name__}: it should return a torch.nn.Module")
    return model


def work(run: RunContext, *, builds: Mapping[str, Variant], data: Path) -> Tables:
    """Train and measure the network of one variant and seed."""
    model = build_network(builds[run.settings["variant"]], run.settings["seed"])
    return train_and_measure(model, _read_data(data), run)


def _identity(variants: Mapping[str, Variant], data: DataSet, settings: Settings) -> Settings:
    """Hashes of the code in training and evaluation mode, the initial weights and the data.

    They make a changed network with the same name another run.
    """
    model = build_network(variants[settings["variant"]], settings["seed"])
    try:
        check_sample(deepcopy(model), data.train, data)
        check_trainable(model)
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
    """Whether another process can import the functions that build the networks; those of a notebook it cannot."""
    try:
        return b"__main__" not in pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False


def _write_data(data: DataSet, store: Path) -> Path:
    """Write the data to a file for other processes; returns its path."""
    known_by = json.dumps([data.fingerprint(), list(data.train.y.shape), list(data.test.y.shape)])
    file = store / f"data-{hashlib.sha256(known_by.encode()).hexdigest()[:16]}.safetensors"
    if not file.exists():
        store.mkdir(parents=True, exist_ok=True)
        about = {"name": data.name, "classes": str(data.classes or "")}
        with replacing(file) as path:
            safetensors.torch.save_file(_unshared_tensors(data), path, about)
    return file


def _unshared_tensors(data: DataSet) -> dict[str, Tensor]:
    """The tensors by name, without shared memory, as safetensors requires: parts may be views of one tensor."""
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
            raise DataError(f"{file} is damaged: delete it and run again")
        train, test = [Split(*(opened.get_tensor(f"{part}.{name}") for name in "xy")) for part in ("train", "test")]
    return DataSet(about["name"], train, test, int(about["classes"]) if about["classes"] else None)
