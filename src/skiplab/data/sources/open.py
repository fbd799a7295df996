"""From what a user types for --data to examples or a stream of batches."""

from pathlib import Path

from skiplab.data.sources.arrays import arrays, digits
from skiplab.data.sources.examples import Examples
from skiplab.data.sources.folders import folder
from skiplab.data.sources.request import DataRequest
from skiplab.data.sources.streams import Stream, stream
from skiplab.data.sources.tables import hub, parquet
from skiplab.errors import DataError

FORMS = (
    "digits, a folder of pictures (one folder a class), a Parquet file or folder, hub:NAME, a .npz or .safetensors "
    "file, file.py:callable or package.module:callable"
)
_FILES = {".npz": arrays, ".safetensors": arrays, ".parquet": parquet}


def open_source(request: DataRequest) -> Examples | Stream:
    """The data that `request` names; DataError when there are none."""
    path = Path(request.spec)
    if request.spec == "digits":
        return digits(request)
    if request.spec.startswith("hub:"):
        return hub(request)
    if path.is_dir():
        return parquet(request) if any(path.rglob("*.parquet")) else folder(request)
    if path.suffix in _FILES:
        if not path.is_file():
            raise DataError(f"there is no file {path}: check the path (it is taken from {Path.cwd()})")
        return _FILES[path.suffix](request)
    if ":" in request.spec:
        return stream(request)
    raise DataError(f"--data {request.spec}: there is no such file or folder; data are {FORMS}")
