"""From what a user types for MODEL to a model with example inputs.

A MODEL is one of ours (`resnet50`), `package.module:callable`, `file.py:callable`, `timm:NAME`,
`torchvision:NAME`, `transformers:TYPE_OR_PATH`, or a `.pt2` file. Inputs are those that the user gives, else
those that the callable returns, else those that the model or its library declares.

A network too big for the memory is built on torch's meta device, where tensors have a shape and a dtype but no
values: that is all that finding skip connections and counting paths needs.
"""

import contextlib
import copy
import importlib
import importlib.util
import inspect
import io
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from skiplab.errors import ModelError, UsageError
from skiplab.graph.torch_compat import pytree
from skiplab.io.weights import load_weights
from skiplab.loading import example_inputs, libraries
from skiplab.loading.libraries import LIBRARIES, Built, call, nearest

FORMS = (
    "a name of ours (resnet50), package.module:callable, file.py:callable, timm:NAME, torchvision:NAME, "
    "transformers:TYPE_OR_PATH or file.pt2"
)


@dataclass(frozen=True)
class Resolved:
    """A model with the inputs to run it on.

    Attributes:
        name: as the user wrote it.
        model: the module.
        args, kwargs: arguments of `forward`.
        meta: whether weights and inputs are on the meta device, without values. Then the skips can be found
            and the paths counted, but nothing can be run or measured.
    """

    name: str
    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    meta: bool = False

    def with_img_size(self, size: int) -> "Resolved":
        """The same model on images of this height and width; UsageError where no input is an image."""
        resized, kwargs = pytree.tree_map_only(
            Tensor, lambda tensor: _resized(tensor, size) if _is_image(tensor) else tensor, (self.args, self.kwargs)
        )
        if not any(isinstance(leaf, Tensor) and _is_image(leaf) for leaf in pytree.tree_leaves((resized, kwargs))):
            raise UsageError(f"--img-size {size}: {self.name} takes no images: give --input")
        return replace(self, args=resized, kwargs=kwargs)


def _is_image(tensor: Tensor) -> bool:
    """Whether the shape is (samples, channels, height, width), or that of a film."""
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
        spec: one of the forms above.
        shapes: inputs such as "1x3x224x224" or "1x16:int64", one for each positional argument of `forward`.
        options: keyword arguments for the callable that builds the model.
        weights: a safetensors file or a pickled state dict, loaded strictly.
        trust: allow reading a `.pt2` file, which can run code of whoever made it.
        meta: build on the meta device, without memory for weights. A model of transformers is built there
            without being asked for when its weights would take more than half of the memory that is free.
    """
    if meta and weights is not None:
        raise UsageError("--weights and --meta exclude each other: on the meta device there is nothing to load into")
    with quiet():
        # weights are to be loaded, whatever they take
        model, declared = _build(spec, dict(options or {}), trust, meta if meta or weights is not None else None)
        args, kwargs = (tuple(example_inputs.typed(text) for text in shapes), {}) if shapes else declared()
    if weights is not None:
        load_weights(model, weights)
    if not (meta or libraries.is_meta(model)):
        return Resolved(spec, model, args, kwargs)
    args, kwargs = pytree.tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    return Resolved(spec, model.to("meta"), args, kwargs, meta=True)


def _build(spec: str, options: dict[str, Any], trust: bool, meta: bool | None) -> Built:
    owner, colon, name = spec.rpartition(":")
    library = LIBRARIES.get(spec.partition(":")[0])
    if colon and library:
        return library.build(spec.partition(":")[2], options, meta)
    if spec.endswith(".pt2"):
        if meta:
            raise UsageError(f"{spec} brings its own weights, which have to be read: leave out --meta")
        return _exported(Path(spec), trust)
    if colon:
        return _called(spec, module_of(owner), name, options, bool(meta))
    return _ours(spec, options, bool(meta))


def builder_of(spec: str) -> Any:
    """The function or class that builds one of our models or the user's; None where there is none.

    spec: as for `resolve`.
    """
    from skiplab import models

    owner, colon, name = spec.rpartition(":")
    if spec.endswith(".pt2"):
        return None
    found = getattr(module_of(owner) if colon else models, name, None)
    return found if callable(found) and not isinstance(found, nn.Module) else None


def _ours(name: str, options: dict[str, Any], meta: bool) -> Built:
    from skiplab import models

    known = [each for each in models.__all__ if _makes_a_model(getattr(models, each))]
    if name not in known:
        hint = f"; for a file write {name}:CALLABLE" if name.endswith(".py") else nearest(name, known)
        raise ModelError(f"there is no model `{name}`{hint}; MODEL is {FORMS}")
    model = call(name, getattr(models, name), options, meta)
    return model, lambda: example_inputs.of_model(name, model)


def _makes_a_model(function: Any) -> bool:
    """Whether it is a function that says that it returns a module; `concat` and classes of parts are none."""
    made = inspect.isfunction(function) and inspect.get_annotations(function, eval_str=True).get("return")
    return isinstance(made, type) and issubclass(made, nn.Module)


def _called(spec: str, owner: ModuleType, name: str, options: dict[str, Any], meta: bool) -> Built:
    """A callable that returns a model or (model, example inputs); a class or a module will do."""
    if not hasattr(owner, name):
        public = [each for each in vars(owner) if not each.startswith("_") and callable(getattr(owner, each))]
        raise ModelError(f"{spec}: there is no `{name}` there{nearest(name, public)}")
    found = getattr(owner, name)
    if isinstance(found, nn.Module):
        made = copy.deepcopy(found) if meta else found  # moved to meta, the module's own would be lost
    else:
        made = call(spec, found, options, meta)
    if isinstance(made, nn.Module):
        return made, lambda: example_inputs.of_model(spec, made)
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return made[0], lambda: example_inputs.returned(made[1])
    raise ModelError(f"{spec} returns {type(made).__name__}: it should return a model or (model, example inputs)")


def module_of(owner: str) -> ModuleType:
    """The module before the colon of `file.py:callable` or `package.module:callable`, imported."""
    return _from_file(Path(owner)) if owner.endswith(".py") else _from_package(owner)


def _from_file(path: Path) -> ModuleType:
    _there(path)
    name = f"skiplab_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    with _importable(path.parent, str(path)):  # the file may import its neighbours
        spec.loader.exec_module(module)
    return module


def _from_package(name: str) -> ModuleType:
    try:
        with _importable(Path.cwd(), f"module `{name}`"):
            return importlib.import_module(name)
    except ModelError as error:
        if isinstance(error.__cause__, ModuleNotFoundError) and name.startswith(error.__cause__.name or "?"):
            hint = f"for a file write {name}.py:CALLABLE" if Path(f"{name}.py").is_file() else f"MODEL is {FORMS}"
            raise ModelError(f"there is no module `{error.__cause__.name}`; {hint}") from error.__cause__
        raise


@contextlib.contextmanager
def _importable(folder: Path, what: str) -> Iterator[None]:
    """The folder leads the search for modules, as for a script; whatever an import raises is a ModelError."""
    entry = str(folder.resolve())
    if entry not in sys.path:
        sys.path.insert(0, entry)  # and stays: what builds the model may import its neighbours only when called
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ModelError(f"{what} cannot be imported: {type(error).__name__}: {error}") from error


def _exported(path: Path, trust: bool) -> Built:
    _there(path)
    if not trust:
        raise UsageError(
            f"reading {path} can run code of whoever made it (torch.export.load unpickles): give --trust if you "
            "trust its maker"
        )
    try:
        exported = torch.export.load(path)
    except Exception as error:
        raise ModelError(f"{path} is no program that torch {torch.__version__} can read: {error}") from error
    model, example = exported.module(), exported.example_inputs
    if example is None:
        return model, lambda: example_inputs.of_model(str(path), model)
    return model, lambda: (tuple(example[0]), dict(example[1]))


def _there(path: Path) -> None:
    if not path.is_file():
        raise ModelError(f"there is no file {path}: check the path (it is taken from {Path.cwd()})")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries and users' code print on stdout, which is for data, and warn."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
