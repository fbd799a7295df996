"""The plan of `skiplab train`: model, data and recipe, checked before training."""

import zlib
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skiplab.cli.model_options import ModelOptions, too_large
from skiplab.cli.session import suggest_options
from skiplab.data.sources import DataRequest, dataset
from skiplab.errors import DataError, UsageError
from skiplab.graph.torch_compat import pytree
from skiplab.io.hashing import checksum
from skiplab.training.fit import fabric_on
from skiplab.training.loop import check_sample
from skiplab.training.objectives import chance
from skiplab.training.recipe import Recipe
from skiplab.training.seeds import Plan, open_folder


def plan_of(model: ModelOptions, data_request: DataRequest, recipe: Recipe, device: str, out: Path | None) -> Plan:
    """The plan of all runs; raises for invalid options, before training.

    Raises:
        UsageError: a `.pt2` file as model, an invalid recipe or an unavailable device.
        DataError: the data cannot be read.
    """
    if model.spec.endswith(".pt2"):
        raise UsageError(f"{model.spec} is an inference graph, which cannot be trained: give the code of the network")
    fabric_on(device, recipe.precision)
    return Plan(partial(_build_network, model), dataset(data_request, lambda: shape_of(model)), recipe, device, out)


def shape_of(model: ModelOptions) -> tuple[int, ...]:
    """The shape of the first input of the model, without the batch; image files are resized to it."""
    resolved = model.resolved()
    leaves = pytree.tree_leaves((resolved.args, resolved.kwargs))
    first = next((leaf for leaf in leaves if isinstance(leaf, Tensor)), None)
    if first is None:
        raise UsageError(f"{model.spec} takes no tensor: give --input, such as --input 1x3x224x224")
    return tuple(first.shape[1:])


def _build_network(model: ModelOptions, seed: int) -> nn.Module:
    """The network with the initial weights of this seed, or with those of --weights."""
    torch.manual_seed(seed)
    resolved = model.resolved(("1",))  # a placeholder input: training uses the data
    if resolved.meta:
        raise too_large(model.spec, "training")
    return resolved.model


def config_of(model: ModelOptions, plan: Plan, seed: int, *, fresh: bool) -> dict[str, Any]:
    """Everything that the results depend on except the seed, as JSON.

    Raises:
        DataError: the model does not take the data, or the folder has runs of another config.
    """
    network = plan.build(seed)
    _check_model(model, network, plan)
    weights = checksum(network.state_dict().values()) if model.weights else None
    config = {
        "model": {
            "name": model.spec,
            "kwargs": model.keywords(),
            "weights": weights,
            "layers": _layers(network),
        },
        "data": plan.data.fingerprint(),
        "recipe": {name: value for name, value in plan.recipe.record().items() if name != "seed"},
    }
    if plan.out is not None:
        open_folder(plan.out, config, fresh=fresh)
    config["data"]["chance"] = {part: chance(getattr(plan.data, part)) for part in ("train", "test")}
    return {**config, "versions": {name: version(name) for name in ("skiplab", "torch")}}


def _layers(network: nn.Module) -> str:
    return f"{zlib.crc32(str(network).encode()):08x}"


def _check_model(model: ModelOptions, network: nn.Module, plan: Plan) -> None:
    try:
        check_sample(network, plan.data.train, plan.data)
    except DataError as error:
        fix = suggest_options(plan.data.train.x.shape[1:], plan.data.classes)
        reason = str(error).removesuffix(f": build it with num_classes={plan.data.classes}")
        raise DataError(f"{reason.replace('the model', model.spec, 1)}; {fix}") from error
