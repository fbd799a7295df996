"""Options that several commands have, and what they hold."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from skiplab.cli.app import say
from skiplab.errors import UsageError

Data = Annotated[
    str, typer.Option(help="digits, a folder of pictures, Parquet, hub:NAME, .npz, .safetensors, file.py:callable.")
]
Column = Annotated[str | None, typer.Option(help="Which columns or arrays: x=image,y=label.")]
Normalise = Annotated[
    str | None, typer.Option(help="Of pictures: imagenet, data or none (default: imagenet for 3 channels).")
]
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
        warnings.showwarning = lambda message, *_, **__: say(f"note: {message}")
        yield
