"""Pictures and labels in the columns of a table: Parquet files, and data sets of the Hugging Face hub."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import torch
from torch import Tensor

from skiplab.data.sources.examples import Examples, Picture, classes
from skiplab.data.sources.request import PARTS, DataRequest
from skiplab.errors import DataError

# What such columns are called most often; a type alone does not tell a label from a row's number.
_USUAL = {"x": ("image", "img", "picture", "jpg", "png"), "y": ("label", "labels", "class", "target", "y")}


def parquet(request: DataRequest) -> Examples:
    """A Parquet file, or a folder of them; parts are told by the names of files or folders, as the hub does."""
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
    """`hub:NAME` or `hub:NAME:CONFIGURATION`, downloaded into the cache of `datasets`, or a folder as it takes it."""
    try:
        import datasets
    except ImportError:
        raise DataError(f"{request.spec} needs the package datasets: pip install 'skiplab[data]'") from None
    name, _, configuration = request.spec.removeprefix("hub:").partition(":")
    try:
        loaded = datasets.load_dataset(name, configuration or None)
        parts = frozenset(str(each) for each in loaded)
        part = request.part(set(parts))
        table = loaded[part].with_format("arrow")
    except DataError:
        raise
    except Exception as error:  # whatever a network, a cache or somebody's file may raise
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
    """Only the rows that are drawn are kept, as the compressed pictures that they are."""
    x_name = _column(request, schema, "x", _is_picture)
    y_name = _column(request, schema, "y", _is_label)
    assert x_name is not None
    rows = request.draw(count)
    drawn = read([x_name, *([y_name] if y_name else [])], rows)
    pictures = [_picture(request, value) for value in drawn[x_name].to_pylist()]
    y, names = None, ()
    if y_name is not None:
        y, names = _labels(drawn[y_name], lambda: read([y_name], None)[y_name])
    return Examples(request.spec, part, pictures, y, count, classes=names)


def _column(request: DataRequest, schema: pa.Schema, key: str, fits: Callable[[pa.DataType], bool]) -> str | None:
    """The column request for, the only one of its type, or the one with a usual name; no labels give None."""
    if key in request.columns:
        if request.columns[key] not in schema.names:
            raise DataError(f"{request.spec} has no column `{request.columns[key]}`; it has {', '.join(schema.names)}")
        return request.columns[key]
    fitting = [field.name for field in schema if fits(field.type)]
    usual = [name for name in _USUAL[key] if name in fitting]
    if len(fitting) == 1 or usual:
        return (usual or fitting)[0]
    if not fitting and key == "y":
        return None
    found = f"could be {' or '.join(fitting)}" if fitting else f"is none of {', '.join(schema.names)}"
    what = "pictures (bytes, or bytes and path)" if key == "x" else "labels"
    raise DataError(f"{request.spec}: the column with {what} {found}: say which with --column {key}=NAME")


def _is_picture(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_label(kind: pa.DataType) -> bool:
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
    return pa.types.is_integer(kind) or is_text


def _picture(request: DataRequest, value: Any) -> Picture:
    if isinstance(value, dict):
        value = value.get("bytes") or (Path(value["path"]) if value.get("path") else None)
    if not isinstance(value, (bytes, Path)):
        raise DataError(f"{request.spec} holds a row without a picture: leave such rows out")
    return value


def _labels(drawn: pa.ChunkedArray, whole: Callable[[], pa.ChunkedArray]) -> tuple[Tensor, tuple[str, ...]]:
    """Numbers as they are; names by alphabet over the whole column, of which a draw may miss some."""
    values = drawn.to_pylist()
    if any(value is None for value in values):
        raise DataError("a row has no label: leave such rows out")
    if values and isinstance(values[0], str):
        return classes(values, of=whole().unique().to_pylist())
    return torch.tensor(values), ()


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.parquet"))


def _part_of(file: Path, root: Path) -> str:
    """`test-00000-of-00001.parquet` and `test/0000.parquet` are of the part `test`."""
    names = (file.stem.split("-")[0], *(folder.name for folder in file.parents if folder.is_relative_to(root)))
    return next((name for name in names if name in PARTS), "")
