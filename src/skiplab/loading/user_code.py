"""The user's own file or package: its module, and the model that a callable in it builds."""

import contextlib
import copy
import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from skiplab.errors import ModelError
from skiplab.loading import example_inputs
from skiplab.loading.libraries import BuiltModel, call_builder, did_you_mean

FORMS = (
    "a model of Skiplab (resnet50), package.module:callable, file.py:callable, timm:NAME, torchvision:NAME, "
    "transformers:TYPE_OR_PATH or file.pt2"
)


def build_from(spec: str, owner: ModuleType, name: str, options: dict[str, Any], meta: bool) -> BuiltModel:
    """The model of a callable that returns it or (model, example inputs), of a class, or of a module instance.

    Raises:
        ModelError: `owner` has no such name, the call fails, or it returns something else.
    """
    if not hasattr(owner, name):
        public = [each for each in vars(owner) if not each.startswith("_") and callable(getattr(owner, each))]
        raise ModelError(f"{spec}: `{owner.__name__}` has no `{name}`{did_you_mean(name, public)}")
    found = getattr(owner, name)
    if isinstance(found, nn.Module):
        made = copy.deepcopy(found) if meta else found  # moving it to meta would discard its weights
    else:
        made = call_builder(spec, found, options, meta)
    if isinstance(made, nn.Module):
        return made, lambda: example_inputs.declared_inputs(spec, made)
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return made[0], lambda: example_inputs.as_arguments(made[1])
    raise ModelError(f"{spec} returns {type(made).__name__}: return a model or (model, example inputs)")


def load_module(owner: str) -> ModuleType:
    """Imports the module before the colon of `file.py:callable` or `package.module:callable`; raises ModelError."""
    return _from_file(Path(owner)) if owner.endswith(".py") else _from_package(owner)


def _from_file(path: Path) -> ModuleType:
    require_file(path)
    return _run_file(path.resolve(), path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _run_file(path: Path, _changed: int) -> ModuleType:
    """Runs a file once, and again when it has changed."""
    name = f"skiplab_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    with _importable(path.parent, str(path)):  # the file may import modules next to it
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
    """Puts the folder first in `sys.path`, as for a script, and turns every error of the import into a ModelError."""
    entry = str(folder.resolve())
    if entry not in sys.path:
        sys.path.insert(0, entry)  # it stays there: the callable may import modules next to it
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ModelError(f"{what} cannot be imported: {type(error).__name__}: {error}") from error


def require_file(path: Path) -> None:
    """Raises ModelError if the file does not exist."""
    if not path.is_file():
        raise ModelError(f"there is no file {path}: check the path (relative to {Path.cwd()})")
