"""Options that several commands share."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from skiplab.cli.app import print_message
from skiplab.errors import UsageError

if TYPE_CHECKING:
    from skiplab.data.sources import DataRequest

Device = Annotated[str, typer.Option(help="Device to run on: auto, cpu, cuda, cuda:N or mps.")]


@dataclass(frozen=True)
class DataOptions:
    """Which data, and which part of them."""

    data: Annotated[
        str,
        typer.Option(
            help="digits, a folder of images, Parquet, hub:NAME, .npz, .safetensors or file.py:callable.",
        ),
    ]
    samples: Annotated[int, typer.Option(min=0, help="Samples to use, drawn at random; 0 for all.")] = 0
    split: Annotated[
        str | None, typer.Option(help="Part of the data to evaluate on (default: test, else validation).")
    ] = None
    column: Annotated[str | None, typer.Option(help="Columns or arrays to use: x=image,y=label.")] = None
    normalize: Annotated[
        Literal["imagenet", "data", "none"] | None,
        typer.Option(help="Normalization of images (default: imagenet for 3 channels, else data)."),
    ] = None
    data_seed: Annotated[int, typer.Option(help="Seed of the samples drawn and of those held out.")] = 0

    def request(self, batch_size: int = 64) -> "DataRequest":
        """The same as `skiplab.data.sources` takes it; UsageError for a `--column` that is not x=NAME,y=NAME."""
        from skiplab.data.sources import DataRequest

        pairs = [each.partition("=") for each in self.column.split(",")] if self.column else []
        if any(not (key and sign and name) for key, sign, name in pairs):
            raise UsageError(f"--column {self.column}: write x=NAME,y=NAME")
        columns = {key.strip(): name.strip() for key, _, name in pairs}
        return DataRequest(self.data, batch_size, self.samples, self.split, self.normalize, columns, self.data_seed)


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Prints the package's own warnings, a line each; those of libraries are nothing that a user can fix."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", module=r"skiplab\.")
        warnings.showwarning = lambda message, *_, **__: print_message(f"note: {message}")
        yield


def parse_formats(formats: str | None, out: Path | None, *, default: str, training: bool) -> list[str]:
    """The names in `--formats`, checked before the work, as is whether the folder `--out` can be written to."""
    if out is None:
        if formats is not None:
            raise UsageError("--formats needs a folder to write to: give --out FOLDER")
        return []
    from skiplab.io.atomic import writable_folder
    from skiplab.serialization import check_formats

    names = [each.strip() for each in (formats or default).split(",")]
    check_formats(names, training=training)
    writable_folder(out)
    return names
