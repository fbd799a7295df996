"""Resolves the value of --data to samples or a stream of batches."""

from dataclasses import replace
from pathlib import Path

from skiplab.data.sources.arrays import arrays, digits
from skiplab.data.sources.examples import Examples
from skiplab.data.sources.folders import folder
from skiplab.data.sources.request import TRAINING_PARTS, DataRequest
from skiplab.data.sources.streams import Stream, stream
from skiplab.data.sources.tables import hub, parquet
from skiplab.errors import DataError

FORMS = (
    "digits, a folder of images (one folder per class), a Parquet file or folder, hub:NAME, a .npz or .safetensors "
    "file, file.py:callable or package.module:callable"
)
_FILES = {".npz": arrays, ".safetensors": arrays, ".parquet": parquet}


def open_source(request: DataRequest) -> Examples | Stream:
    """Opens the data that `request` names, and draws its samples.

    Raises:
        DataError: the data do not exist, cannot be read, or lack the requested part or columns.
    """
    path = Path(request.spec)
    if request.spec == "digits":
        return digits(request)
    if request.spec.startswith("hub:"):
        return hub(request)
    if path.is_dir():
        return parquet(request) if any(path.rglob("*.parquet")) else folder(request)
    if path.suffix in _FILES:
        if not path.is_file():
            raise DataError(f"there is no file {path}: check the path (relative to {Path.cwd()})")
        return _FILES[path.suffix](request)
    if ":" in request.spec:
        return stream(request)
    raise DataError(f"--data {request.spec}: no such file or folder; give {FORMS}")


def training_part(request: DataRequest, test: Examples | Stream) -> Examples | Stream | None:
    """The training part of the data, or None if it is `test` itself or the data have none.

    test: the part that networks are evaluated on, opened from the same request.
    """
    parts = test.parts if isinstance(test, Examples) and test.part not in TRAINING_PARTS else ()
    name = next((name for name in TRAINING_PARTS if name in parts), None)
    return None if name is None else open_source(replace(request, split=name))
