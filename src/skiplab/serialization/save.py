"""`save`: writes a program's files to a folder, after each was read back and compared with the program."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.io.atomic import replacing, writable_folder, writing_to
from skiplab.serialization import onnx, pt2, python_folder
from skiplab.serialization.compare import Answer, answers

Writer = Callable[[Program, Path, list[Answer]], float]
_WRITERS: dict[str, Writer] = {"python": python_folder.write, "pt2": pt2.write, "onnx": onnx.write}


def save(program: Program, folder: Path | str, formats: Sequence[str] = ("python", "pt2", "onnx")) -> pd.DataFrame:
    """Writes a program to files that need no Skiplab to read.

    Each format is read back from its files and compared with the program, on the example and, where the batch size is
    free, on a batch of another size; only then is it moved to the folder. Other files in the folder stay unchanged.

    Args:
        program: a captured or edited program, with its current weights.
        folder: created if it is missing.
        formats: of "python": `network.py`, whose `network()` gives the model and example inputs, with its tensors in
            `network.safetensors` and, where there are any, `constants.safetensors`. "pt2": `network.pt2`, which
            `torch.export.load` reads. "onnx": `network.onnx`, which takes `pip install 'skiplab[onnx]'`.

    Returns:
        One row per file: format, file, bytes, and difference, the largest between the outputs of the file and of the
        program.

    Raises:
        UsageError: for other formats; for ONNX without its packages, or of a training graph; for a program without
            values; for inputs and outputs of a form that cannot be written.
        OutputError: a format cannot hold the network, or gives other outputs when read back. The formats before it
            are then in the folder.
    """
    check_formats(formats, training=program.training)
    program.require_values("which a saved network holds")
    folder = writable_folder(folder)
    known = answers(program)
    rows = []
    for name in dict.fromkeys(formats):
        with _staging(folder) as place:
            difference = _WRITERS[name](program, place, known)
            for file in _in_order(place):
                rows.append((name, file.name, file.stat().st_size, difference))
                with replacing(folder / file.name) as temporary:
                    os.replace(file, temporary)
    return pd.DataFrame(rows, columns=["format", "file", "bytes", "difference"])


def check_formats(formats: Sequence[str], *, training: bool) -> None:
    """UsageError for unknown formats, formats without training graphs, and formats whose packages are missing."""
    if isinstance(formats, str) or not formats or not {*formats} <= _WRITERS.keys():
        raise UsageError(f"formats={formats!r}: choose some of {', '.join(_WRITERS)}")
    if "onnx" in formats:
        onnx.check_available(training=training)


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A hidden folder for unfinished files, on the same file system so that files can be moved out of it."""
    with writing_to(folder):
        place = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    try:
        with writing_to(folder):
            yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _in_order(place: Path) -> list[Path]:
    """The files in the order in which they are moved: the Python file, which refers to the others, last."""
    return sorted((file for file in place.iterdir() if file.is_file()), key=lambda file: (file.suffix == ".py", file))
