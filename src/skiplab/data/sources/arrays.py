"""Data stored as tensors: the digits, and arrays in a `.npz` or `.safetensors` file."""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from skiplab import data
from skiplab.data.sources.examples import Examples
from skiplab.data.sources.request import PARTS, DataRequest
from skiplab.errors import DataError


def digits(request: DataRequest) -> Examples:
    """scikit-learn's handwritten digits, (N, 1, 8, 8)."""
    part = request.part({"train", "test"})
    split = getattr(data.digits(), part)
    indices = request.draw(len(split))
    return Examples(request.spec, part, split.x[indices], split.y[indices], len(split), frozenset({"train", "test"}))


def arrays(request: DataRequest) -> Examples:
    """The arrays `x` and `y` of a file, or `x_test` and `y_test`, or its only two.

    Raises:
        DataError: the file cannot be read, has no such arrays, or they differ in the number of samples.
    """
    found = _read(Path(request.spec))
    parts = {name.partition("_")[2] for name in found if name.startswith("x_")} & PARTS
    part = _part(request, found, parts)
    x_name, y_name = _names(request, found, part)
    x, y = found[x_name], None if y_name is None else found[y_name]
    if x.ndim == 0 or (y is not None and (y.ndim == 0 or len(y) != len(x))):
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in found.items())
        raise DataError(
            f"{request.spec}: x and y differ in the number of samples ({shapes}): give one entry of y per sample"
        )
    indices = request.draw(len(x))
    if request.columns:
        parts = set()  # the columns name arrays regardless of the part
    elif "x" in found:
        parts.add("")
    return Examples(request.spec, part, x[indices], None if y is None else y[indices], len(x), frozenset(parts))


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with np.load(path, allow_pickle=False) as file:  # a pickle could run code
            return {name: _tensor(file[name]) for name in file.files}
    except FileNotFoundError:
        raise DataError(f"there is no file {path}: check the path (relative to {Path.cwd()})") from None
    except (OSError, EOFError, ValueError, TypeError, BadZipFile, SafetensorError) as error:
        raise DataError(f"{path} cannot be read: {error}; save numeric arrays named x and y") from error


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _part(request: DataRequest, found: dict[str, Tensor], parts: set[str]) -> str:
    """`x_test` belongs to the part `test`."""
    if request.split is None and ("x" in found or request.columns or not parts):
        return ""
    return request.part(parts)


def _names(request: DataRequest, found: dict[str, Tensor], part: str) -> tuple[str, str | None]:
    names = {key: f"{key}_{part}" if part else key for key in ("x", "y")} | dict(request.columns)
    if not request.columns and names["x"] not in found and len(found) <= 2:
        # With only two arrays, the targets are the one with fewer dimensions.
        ordered = sorted(found, key=lambda name: found[name].ndim, reverse=True)
        if len(ordered) == 1 or found[ordered[0]].ndim > found[ordered[-1]].ndim:
            return ordered[0], ordered[1] if len(ordered) > 1 else None
    wrong = [name for key, name in names.items() if name not in found and (key == "x" or key in request.columns)]
    if wrong:
        there = ", ".join(found) or "none"
        raise DataError(
            f"{request.spec} has no array {wrong[0]} (arrays: {there}): name them x and y, or give --column "
            "x=NAME,y=NAME"
        )
    return names["x"], names["y"] if names["y"] in found else None
