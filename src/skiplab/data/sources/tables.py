"""Images and labels in columns of tables: Parquet files, and data sets of the Hugging Face hub."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import torch
from torch import Tensor

from skiplab.data.sources.examples import Examples, ImageFile, class_indices
from skiplab.data.sources.request import PARTS, DataRequest
from skiplab.errors import DataError

# Usual names of these columns: the type alone does not distinguish a label from a row number.
_USUAL_NAMES = {"x": ("image", "img", "picture", "jpg", "png"), "y": ("label", "labels", "class", "target", "y")}


def parquet(request: DataRequest) -> Examples:
    """A Parquet file, or a folder of them, with parts named as on the hub (`test-00000-of-00001.parquet`, `test/`).

    Raises:
        DataError: the files cannot be read, or lack the requested part or columns.
    """
    files = _files(Path(request.spec))
    named = {file: _part_of(file, Path(request.spec)) for file in files}
    parts = {part for part in named.values() if part}
    part = request.part(parts) if parts or request.split is not None else ""
    try:
        table = pads.dataset([str(file) for file in files if named[file] == part], format="parquet")
        drawn = _examples(request, part, table.schema, table.count_rows(), lambda c, rows: _rows(table, c, rows))
        return replace(drawn, parts=frozenset(parts))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{request.spec} cannot be read as Parquet: {error}") from error


def hub(request: DataRequest) -> Examples:
    """`hub:NAME` or `hub:NAME:CONFIGURATION`, downloaded to the cache of `datasets`; NAME may be a local folder.

    Raises:
        DataError: `datasets` is not installed or cannot load the data, or a part or column is missing.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(f"{request.spec} needs the package datasets: pip install 'skiplab[data]'") from None
    name, _, configuration = request.spec.removeprefix("hub:").partition(":")
    try:
        loaded = datasets.load_dataset(name, configuration or None)
        parts = frozenset(str(name) for name in loaded)
        part = request.part(set(parts))
        table = loaded[part].with_format("arrow")
    except DataError:
        raise
    except Exception as error:  # `datasets` raises errors of many kinds
        raise DataError(f"{request.spec} cannot be loaded: {type(error).__name__}: {error}") from error

    def read(columns: list[str], rows: list[int] | None) -> pa.Table:
        chosen = table.select_columns(columns)
        return chosen[:] if rows is None else chosen.select(rows)[:]

    return replace(_examples(request, part, table.features.arrow_schema, len(table), read), parts=parts)


def _rows(table: pads.Dataset, columns: list[str], rows: list[int] | None) -> pa.Table:
    return table.to_table(columns=columns) if rows is None else table.take(rows, columns=columns)


def _examples(
    request: DataRequest,
    part: str,
    schema: pa.Schema,
    count: int,
    read: Callable[[list[str], list[int] | None], pa.Table],
) -> Examples:
    """Only the drawn rows are kept in memory, with compressed images."""
    x_name = _column(request, schema, "x", _is_image)
    y_name = _column(request, schema, "y", _is_label)
    assert x_name is not None
    rows = request.draw(count)
    drawn = read([x_name, *([y_name] if y_name else [])], rows)
    images = [_image(request, value) for value in drawn[x_name].to_pylist()]
    y, names = None, ()
    if y_name is not None:
        y, names = _labels(drawn[y_name], lambda: read([y_name], None)[y_name])
    return Examples(request.spec, part, images, y, count, classes=names)


def _column(request: DataRequest, schema: pa.Schema, key: str, fits: Callable[[pa.DataType], bool]) -> str | None:
    """The requested column, else the only one of its type, else one with a usual name; None without labels."""
    if key in request.columns:
        if request.columns[key] not in schema.names:
            raise DataError(f"{request.spec} has no column `{request.columns[key]}`; it has {', '.join(schema.names)}")
        return request.columns[key]
    fitting = [field.name for field in schema if fits(field.type)]
    usual = [name for name in _USUAL_NAMES[key] if name in fitting]
    if len(fitting) == 1 or usual:
        return (usual or fitting)[0]
    if not fitting and key == "y":
        return None
    what = "images (bytes, or bytes and path)" if key == "x" else "labels"
    found = f"candidates: {', '.join(fitting)}" if fitting else f"none among {', '.join(schema.names)}"
    raise DataError(f"{request.spec} has no unique column of {what} ({found}): give --column {key}=NAME")


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_label(kind: pa.DataType) -> bool:
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
    return pa.types.is_integer(kind) or is_text


def _image(request: DataRequest, value: Any) -> ImageFile:
    if isinstance(value, dict):
        value = value.get("bytes") or (Path(value["path"]) if value.get("path") else None)
    if not isinstance(value, (bytes, Path)):
        raise DataError(f"{request.spec} has a row without an image: remove such rows")
    return value


def _labels(drawn: pa.ChunkedArray, whole: Callable[[], pa.ChunkedArray]) -> tuple[Tensor, tuple[str, ...]]:
    """Class indices, and the class names in alphabetical order over the whole column, since a draw may miss some."""
    values = drawn.to_pylist()
    if any(value is None for value in values):
        raise DataError("a row has no label: remove such rows")
    if values and isinstance(values[0], str):
        return class_indices(values, of=whole().unique().to_pylist())
    return torch.tensor(values), ()


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.parquet"))


def _part_of(file: Path, root: Path) -> str:
    """The part of a file: `test` for `test-00000-of-00001.parquet` and `test/0000.parquet`; "" if there is none."""
    names = (file.stem.split("-")[0], *(folder.name for folder in file.parents if folder.is_relative_to(root)))
    return next((name for name in names if name in PARTS), "")
