"""The plan of `skiplab train`: model, data and recipe, checked before anything takes long."""

import zlib
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skiplab.cli.model_options import ModelOptions
from skiplab.cli.session import suggest_options
from skiplab.data.sources import DataRequest, dataset
from skiplab.errors import DataError, ModelError, UsageError
from skiplab.graph.torch_compat import pytree
from skiplab.io.hashing import checksum
from skiplab.training.fit import fabric_on
from skiplab.training.loop import check_sample
from skiplab.training.objectives import chance
from skiplab.training.recipe import Recipe
from skiplab.training.seeds import Plan, open_folder


def plan_of(model: ModelOptions, data_request: DataRequest, recipe: Recipe, device: str, out: Path | None) -> Plan:
    """Builds the plan; every error in the options is raised here, before anything takes long."""
    if model.spec.endswith(".pt2"):
        raise UsageError(f"{model.spec} is a graph for inference, which does not train: name the code of the network")
    fabric_on(device, recipe.precision)
    return Plan(partial(_built, model), dataset(data_request, lambda: shape_of(model)), recipe, device, out)


def shape_of(model: ModelOptions) -> tuple[int, ...]:
    """The shape to which pictures are resized: that of the model's example, or of --input."""
    made = model.resolved()
    first = next((leaf for leaf in pytree.tree_leaves((made.args, made.kwargs)) if isinstance(leaf, Tensor)), None)
    if first is None:
        raise UsageError(f"{model.spec} takes no tensor: give --input, such as --input 1x3x224x224")
    return tuple(first.shape[1:])


def _built(model: ModelOptions, seed: int) -> nn.Module:
    """The network with the initial weights of this seed, or with those of --weights."""
    torch.manual_seed(seed)
    made = model.resolved(("1",))  # the data give the input
    if made.meta:
        raise ModelError(f"{model.spec} does not fit into memory: train a smaller one")
    return made.model


def config_of(model: ModelOptions, plan: Plan, seed: int, *, fresh: bool) -> dict[str, Any]:
    """Everything that the numbers depend on except the seed; DataError when --out holds runs of anything else."""
    network = plan.build(seed)
    _must_fit(model, network, plan)
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


def _must_fit(model: ModelOptions, network: nn.Module, plan: Plan) -> None:
    try:
        check_sample(network, plan.data.train, plan.data)
    except DataError as error:
        how = suggest_options(plan.data.train.x.shape[1:], plan.data.classes)
        what = str(error).removesuffix(f": build it with num_classes={plan.data.classes}")
        raise DataError(f"{model.spec}: {what}; {how}") from error
