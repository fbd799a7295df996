"""The plan of `skiplab train`: model, data and recipe, checked before anything takes long."""

import zlib
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skiplab.cli.model_options import Request, keywords
from skiplab.cli.session import suggest_kwargs
from skiplab.data.sources import Asked, dataset
from skiplab.errors import DataError, ModelError, UsageError
from skiplab.graph.torch_compat import pytree
from skiplab.io.hashing import checksum
from skiplab.loading.resolve import resolve
from skiplab.training.fit import fabric_on
from skiplab.training.loop import must_fit
from skiplab.training.objectives import chance
from skiplab.training.recipe import Recipe
from skiplab.training.seeds import Plan, open_folder


def plan_of(request: Request, asked: Asked, recipe: Recipe, device: str, out: Path | None) -> Plan:
    """Builds the plan; every error in the request is raised here, before anything takes long."""
    if request.model.endswith(".pt2"):
        raise UsageError(
            f"{request.model} is a graph for inference, which does not train: name the code of the network"
        )
    fabric_on(device, recipe.precision)
    return Plan(partial(_built, request), dataset(asked, lambda: shape_of(request)), recipe, device, out)


def shape_of(request: Request) -> tuple[int, ...]:
    """The shape to which pictures are resized: that of the model's example, or of --input."""
    made = resolve(request.model, request.inputs or (), keywords(request.kwargs))
    first = next((leaf for leaf in pytree.tree_leaves((made.args, made.kwargs)) if isinstance(leaf, Tensor)), None)
    if first is None:
        raise UsageError(f"{request.model} takes no tensor: give --input, such as --input 1x3x224x224")
    return tuple(first.shape[1:])


def _built(request: Request, seed: int) -> nn.Module:
    """The network with the initial weights of this seed, or with those of --weights."""
    torch.manual_seed(seed)
    made = resolve(request.model, ("1",), keywords(request.kwargs), request.weights)  # the data give the input
    if made.meta:
        raise ModelError(f"{request.model} does not fit into memory: train a smaller one")
    return made.model


def config_of(request: Request, plan: Plan, seed: int, *, fresh: bool) -> dict[str, Any]:
    """Everything that the numbers depend on except the seed; DataError when --out holds runs of anything else."""
    model = plan.build(seed)
    _must_fit(request, model, plan)
    weights = checksum(model.state_dict().values()) if request.weights else None
    config = {
        "model": {
            "name": request.model,
            "kwargs": keywords(request.kwargs),
            "weights": weights,
            "layers": _layers(model),
        },
        "data": plan.data.fingerprint(),
        "recipe": {name: value for name, value in plan.recipe.record().items() if name != "seed"},
    }
    if plan.out is not None:
        open_folder(plan.out, config, fresh=fresh)
    config["data"]["chance"] = {part: chance(getattr(plan.data, part)) for part in ("train", "test")}
    return {**config, "versions": {name: version(name) for name in ("skiplab", "torch")}}


def _layers(model: nn.Module) -> str:
    return f"{zlib.crc32(str(model).encode()):08x}"


def _must_fit(request: Request, model: nn.Module, plan: Plan) -> None:
    try:
        must_fit(model, plan.data.train, plan.data)
    except DataError as error:
        how = suggest_kwargs(request, plan.data.train.x.shape[1:], plan.data.classes)
        what = str(error).removesuffix(f": build it with num_classes={plan.data.classes}")
        raise DataError(f"{request.model}: {what}; {how}") from error
