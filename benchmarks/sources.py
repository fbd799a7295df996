"""The architectures of timm, torchvision and transformers: their names, and how each is built as small as it goes.

Weights are on the meta device, so width costs nothing; only transformers' depth is cut, since each of its families
repeats one layer. Where a model cannot be built or captured on meta it is built for real, if its weights fit.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import torchvision_shim  # noqa: F401  # type: ignore[import-not-found]  # or torchvision wants CUDA
from skiplab.loading import libraries
from skiplab.loading.resolve import Resolved, quiet, resolve
from skiplab.loading.transformers_inputs import nested_configs

LAYERS = 2  # to which a transformers model is cut
REAL_BYTES = 4e9  # of weights, above which a model is not built for real

DEPTHS = frozenset(
    "num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers depth num_encoder_layers "
    "num_decoder_layers num_blocks".split()
)
Attempt = tuple[str, Callable[[], Resolved]]  # how it is built, and what builds it


def names(source: str) -> list[str]:
    """All names of a library, so ordered that a part of them already says much about all.

    timm: the first of each of its files, then the second of each, and so on. transformers: shuffled, always alike.
    """
    if source == "timm":
        import timm
        from timm.models import _registry

        # the registry says in which file a model is defined, which groups them by family
        rank: dict[str, int] = {}
        keyed = []
        for name in timm.list_models():
            family = _registry._model_to_module[name]
            rank[family] = rank.get(family, -1) + 1
            keyed.append((rank[family], family, name))
        return [name for _, _, name in sorted(keyed)]
    if source == "torchvision":
        import torchvision

        return torchvision.models.list_models()
    from transformers.models.auto import configuration_auto

    every = list(configuration_auto.CONFIG_MAPPING_NAMES)  # type: ignore[attr-defined]
    return sorted(every, key=lambda name: hashlib.sha256(name.encode()).digest())


def attempts(source: str, name: str) -> Iterator[Attempt]:
    """Ways to build a model, to be tried one after the other until one is captured."""
    spec = f"{source}:{name}"
    if source != "transformers":
        yield "meta", lambda: resolve(spec, meta=True)
        if _weight_bytes(lambda: resolve(spec, meta=True)) < REAL_BYTES:
            yield "real", lambda: resolve(spec)
        return
    yield "meta, cut", lambda: _transformers(name, meta=True, cut=True)
    yield "meta", lambda: _transformers(name, meta=True, cut=False)
    if _weight_bytes(lambda: _transformers(name, meta=True, cut=True)) < REAL_BYTES:
        yield "real, cut", lambda: _transformers(name, meta=False, cut=True)


def _weight_bytes(build: Callable[[], Resolved]) -> float:
    try:
        return libraries.weight_bytes(build().model)
    except Exception:  # unknown: the real build may tell why
        return 0.0


def _transformers(name: str, *, meta: bool, cut: bool) -> Resolved:
    import transformers

    with quiet():
        config = libraries.load_config(name, {})
        if getattr(config, "prediction_length", 0) is None:  # what time series models have no default for
            config = libraries.load_config(name, {"prediction_length": 24})
        if cut:
            shorten(config)
        model, declared = libraries.from_config(f"transformers:{name}", config, meta)
        args, kwargs = declared()
    if meta:
        args, kwargs = pytree.tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
        model = model.to("meta")
    assert isinstance(config, transformers.PretrainedConfig)
    return Resolved(f"transformers:{name}", model, args, kwargs, meta=meta)


def shorten(config: Any) -> None:
    """Cuts every number of layers in a configuration and in those that it holds, and lists of one entry a layer."""
    for part in nested_configs(config):
        old = {value for key, value in vars(part).items() if key in DEPTHS and type(value) is int and value > LAYERS}
        for key, value in vars(part).items():
            if key in DEPTHS and type(value) is int and value > LAYERS:
                setattr(part, key, LAYERS)
            elif isinstance(value, list) and len(value) in old:
                setattr(part, key, value[:LAYERS])


def versions() -> dict[str, str]:
    import timm
    import torchvision
    import transformers

    import skiplab

    return {m.__name__: str(m.__version__) for m in (skiplab, torch, timm, torchvision, transformers)}
