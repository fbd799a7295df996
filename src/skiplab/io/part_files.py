"""The forms in which a part of a result is kept: Parquet, JSON and safetensors. Each `write_` fills a whole file."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from skiplab.errors import DataError

Tensors = dict[str, Tensor]


@contextmanager
def reading(file: Path, fix: str) -> Iterator[None]:
    """Turns any error while `file` is read into a `DataError` that names the file and the fix."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        why = [error.strerror] if isinstance(error, OSError) and error.strerror else repr(error).splitlines()
        raise DataError(f"{file} is damaged ({why[0]}): {fix}") from error


def write_table(file: Path, table: pd.DataFrame) -> None:
    """Parquet, without the index."""
    table.to_parquet(file, index=False)


def read_table(file: Path) -> pd.DataFrame:
    """The table of `write_table`."""
    return pd.read_parquet(file)


def write_document(file: Path, value: Any) -> None:
    """JSON, in which floats come back bit for bit; NaN and infinities are written as Python reads them."""
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_document(file: Path) -> Any:
    """The JSON value of `write_document`."""
    return json.loads(file.read_text(encoding="utf-8"))


def write_tensors(file: Path, tensors: Mapping[str, Tensor], about: Any = None) -> None:
    """Safetensors, with one JSON value about the tensors."""
    # Copies, because safetensors refuses tensors that share memory (tied weights).
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(copies, file, {"about": json.dumps(about)})


def read_tensors(file: Path) -> tuple[Tensors, Any]:
    """The tensors of `write_tensors`, on the CPU, and the value about them."""
    with safe_open(file, framework="pt") as opened:
        about = json.loads(opened.metadata()["about"])
        return {name: opened.get_tensor(name) for name in opened.keys()}, about  # noqa: SIM118 (no mapping)
