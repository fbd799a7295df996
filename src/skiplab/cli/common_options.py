"""Options that several commands have, and what they hold."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from skiplab.cli.app import print_message
from skiplab.errors import UsageError

Data = Annotated[
    str, typer.Option(help="digits, a folder of pictures, Parquet, hub:NAME, .npz, .safetensors, file.py:callable.")
]
Column = Annotated[str | None, typer.Option(help="Which columns or arrays: x=image,y=label.")]
Normalise = Annotated[
    str | None, typer.Option(help="Of pictures: imagenet, data or none (default: imagenet for 3 channels).")
]
Samples = Annotated[int, typer.Option(min=0, help="Examples of each part, drawn at random; 0 for all.")]
Split = Annotated[str | None, typer.Option(help="The part to judge by (default: test, else validation).")]
DataSeed = Annotated[int, typer.Option(help="Seed of what is drawn, and of what is held out.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]


def columns(column: str | None) -> dict[str, str]:
    """What `--column` holds."""
    pairs = [each.partition("=") for each in column.split(",")] if column else []
    if any(not (key and sign and name) for key, sign, name in pairs):
        raise UsageError(f"--column {column}: write x=NAME,y=NAME")
    return {key.strip(): name.strip() for key, _, name in pairs}


@contextmanager
def notes() -> Iterator[None]:
    """What the package warns of, a line each on stderr; what others warn of is not the user's to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", module=r"skiplab\.")
        warnings.showwarning = lambda message, *_, **__: print_message(f"note: {message}")
        yield


def formats_of(formats: str | None, out: Path | None, *, default: str, training: bool) -> list[str]:
    """What `--formats` holds, and whether it can be written to the folder `--out`: checked before the work."""
    if out is None:
        if formats is not None:
            raise UsageError("--formats says how to write the network, and nothing says where: give --out FOLDER")
        return []
    from skiplab.io.atomic import writable_folder
    from skiplab.serialization import check_formats

    names = [each.strip() for each in (formats or default).split(",")]
    check_formats(names, training=training)
    writable_folder(out)
    return names
