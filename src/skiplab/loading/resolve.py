"""Resolves the MODEL argument to a model with example inputs.

MODEL is a model of Skiplab (`resnet50`), `package.module:callable`, `file.py:callable`, `timm:NAME`,
`torchvision:NAME`, `transformers:TYPE_OR_PATH`, or a `.pt2` file. Example inputs come from the user, else from the
callable, else from the model or its library.

A network that does not fit in memory is built on torch's meta device, where tensors have a shape and a dtype but no
values. This is enough to find skip connections and to count paths.
"""

import contextlib
import inspect
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skiplab.errors import ModelError, UsageError
from skiplab.graph.torch_compat import pytree
from skiplab.io.weights import load_weights
from skiplab.loading import example_inputs, libraries
from skiplab.loading.libraries import LIBRARIES, BuiltModel, call_builder, did_you_mean
from skiplab.loading.user_code import FORMS, build_from, load_module, require_file


@dataclass(frozen=True)
class Resolved:
    """A model with example inputs.

    Attributes:
        name: MODEL, as the user wrote it.
        model: the module.
        args, kwargs: arguments of `forward`.
        meta: whether weights and inputs are on the meta device, without values. Finding skips and counting paths
            works there; running and measuring do not.
    """

    name: str
    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    meta: bool = False

    def with_img_size(self, size: int) -> "Resolved":
        """The same model on images of this height and width; raises UsageError if no input is an image."""
        resized, kwargs = pytree.tree_map_only(
            Tensor, lambda tensor: _resized(tensor, size) if _is_image(tensor) else tensor, (self.args, self.kwargs)
        )
        if not any(isinstance(leaf, Tensor) and _is_image(leaf) for leaf in pytree.tree_leaves((resized, kwargs))):
            raise UsageError(f"--img-size {size}: {self.name} takes no images: give --input instead")
        return replace(self, args=resized, kwargs=kwargs)


def _is_image(tensor: Tensor) -> bool:
    """Whether the shape is (samples, channels, height, width), or that of a video."""
    return tensor.ndim in (4, 5) and tensor.is_floating_point()


def _resized(image: Tensor, size: int) -> Tensor:
    return example_inputs.normal(*image.shape[:-2], size, size).to(image)


def resolve(
    spec: str,
    shapes: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    weights: Path | None = None,
    trust: bool = False,
    *,
    meta: bool = False,
) -> Resolved:
    """Builds the model that `spec` names.

    Args:
        spec: MODEL, in one of the forms above.
        shapes: inputs such as "1x3x224x224" or "1x16:int64", one for each positional argument of `forward`.
        options: keyword arguments for the callable that builds the model.
        weights: a safetensors file or a pickled state dict, loaded strictly.
        trust: allow reading a `.pt2` file, which can run arbitrary code.
        meta: build on the meta device, without memory for weights. A model of transformers is always built there
            if its weights take more than half of the free memory.

    Raises:
        ModelError: the model does not exist, or building it fails.
        UsageError: options exclude each other, an input shape cannot be parsed, or no input is known.
        DataError: `weights` cannot be read, or do not match the model.
    """
    if meta and weights is not None:
        raise UsageError("--weights and --meta exclude each other: the meta device holds no values")
    with quiet():
        # With weights to load, the model needs memory, however large it is.
        model, declared = _build(spec, dict(options or {}), trust, meta if meta or weights is not None else None)
        args, kwargs = (tuple(example_inputs.example_tensor(text) for text in shapes), {}) if shapes else declared()
    if weights is not None:
        load_weights(model, weights)
    if not (meta or libraries.is_meta(model)):
        return Resolved(spec, model, args, kwargs)
    args, kwargs = pytree.tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    return Resolved(spec, model.to("meta"), args, kwargs, meta=True)


def _build(spec: str, options: dict[str, Any], trust: bool, meta: bool | None) -> BuiltModel:
    owner, colon, name = spec.rpartition(":")
    library = LIBRARIES.get(spec.partition(":")[0])
    if colon and library:
        return library.build(spec.partition(":")[2], options, meta)
    if spec.endswith(".pt2"):
        if meta:
            raise UsageError(f"{spec} contains its weights, which have to be read: leave out --meta")
        return _load_pt2(Path(spec), trust)
    if colon:
        return build_from(spec, load_module(owner), name, options, bool(meta))
    return _build_own(spec, options, bool(meta))


def builder_of(spec: str) -> Any:
    """The function or class that builds a model of Skiplab or of the user; None if there is none.

    spec: as for `resolve`.
    """
    from skiplab import models

    owner, colon, name = spec.rpartition(":")
    if spec.endswith(".pt2"):
        return None
    found = getattr(load_module(owner) if colon else models, name, None)
    return found if callable(found) and not isinstance(found, nn.Module) else None


def _build_own(name: str, options: dict[str, Any], meta: bool) -> BuiltModel:
    from skiplab import models

    known = [each for each in models.__all__ if _returns_module(getattr(models, each))]
    if name not in known:
        hint = f"; for a file write {name}:CALLABLE" if name.endswith(".py") else did_you_mean(name, known)
        raise ModelError(f"there is no model `{name}`{hint}; MODEL is {FORMS}")
    model = call_builder(name, getattr(models, name), options, meta)
    return model, lambda: example_inputs.declared_inputs(name, model)


def _returns_module(function: Any) -> bool:
    """Whether `function` is annotated to return a module, unlike `concat` and classes."""
    returned = inspect.isfunction(function) and inspect.get_annotations(function, eval_str=True).get("return")
    return isinstance(returned, type) and issubclass(returned, nn.Module)


def _load_pt2(path: Path, trust: bool) -> BuiltModel:
    require_file(path)
    if not trust:
        raise UsageError(
            f"reading {path} can run arbitrary code (torch.export.load unpickles): give --trust if you trust its author"
        )
    try:
        exported = torch.export.load(path)
    except Exception as error:
        raise ModelError(
            f"torch {torch.__version__} cannot read {path}: {error}; export it again with this release"
        ) from error
    model, example = exported.module(), exported.example_inputs
    if example is None:
        return model, lambda: example_inputs.declared_inputs(str(path), model)
    return model, lambda: (tuple(example[0]), dict(example[1]))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses warnings, and stdout of libraries and user code: stdout is for data."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
