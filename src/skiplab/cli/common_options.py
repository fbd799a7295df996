"""Options shared by several commands."""

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
    from skiplab.measure.losses import Function

DataName = Annotated[
    str,
    typer.Option(
        "--data",
        help="digits, a folder of images, Parquet, hub:NAME, .npz, .safetensors or file.py:callable.",
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Samples per batch.")]
Device = Annotated[str, typer.Option(help="Device to run on: auto, cpu, cuda, cuda:N or mps.")]


@dataclass(frozen=True)
class DataOptions:
    """The data to run on."""

    data: DataName
    samples: Annotated[int, typer.Option(min=0, help="Samples to use, drawn at random; 0 for all.")] = 0
    split: Annotated[
        str | None, typer.Option(help="Part of the data to evaluate on (default: test, else validation).")
    ] = None
    column: Annotated[str | None, typer.Option(help="Columns or arrays to use: x=image,y=label.")] = None
    normalize: Annotated[
        Literal["imagenet", "data", "none"] | None,
        typer.Option(help="Normalization of images (default: imagenet for 3 channels, else data)."),
    ] = None
    data_seed: Annotated[int, typer.Option(help="Seed of the random draw, and of the held-out samples.")] = 0

    def request(self, batch_size: int = 64, seed: int | None = None) -> "DataRequest":
        """The request for `skiplab.data.sources`; raises UsageError if `--column` is not x=NAME,y=NAME.

        seed: replaces `data_seed` in commands without that option.
        """
        from skiplab.data.sources import DataRequest

        pairs = [pair.partition("=") for pair in self.column.split(",")] if self.column else []
        if any(not (key and sign and name) for key, sign, name in pairs):
            raise UsageError(f"--column {self.column}: write x=NAME,y=NAME")
        return DataRequest(
            spec=self.data,
            batch_size=batch_size,
            samples=self.samples,
            split=self.split,
            normalize=self.normalize,
            columns={key.strip(): name.strip() for key, _, name in pairs},
            seed=self.data_seed if seed is None else seed,
        )


@dataclass(frozen=True)
class EvaluationOptions:
    """Evaluation of outputs."""

    loss: Annotated[str, typer.Option(help="Loss: cross-entropy, mse, bce or file.py:callable.")] = "cross-entropy"
    metric: Annotated[
        str | None,
        typer.Option(help="Metric: error, none or file.py:callable (default: error if the loss has classes)."),
    ] = None
    batch_size: BatchSize = 64

    def functions(self) -> "tuple[Function, Function | None]":
        """The loss and the metric; raises UsageError for unknown names."""
        from skiplab.measure.losses import resolve_loss, resolve_metric

        return resolve_loss(self.loss), resolve_metric(self.metric, self.loss)


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Prints warnings of Skiplab on stderr, one line each, and hides those of other libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", module=r"skiplab\.")
        warnings.showwarning = lambda message, *_, **__: print_message(f"note: {message}")
        yield


def parse_formats(formats: str | None, out: Path | None, *, default: str, training: bool) -> list[str]:
    """The names in `--formats`.

    Raises, before the work starts:
        UsageError: a name is unknown, or `--formats` is given without `--out`.
        OutputError: the folder `out` cannot be written.
    """
    if out is None:
        if formats is not None:
            raise UsageError("--formats needs a folder to write to: give --out FOLDER")
        return []
    from skiplab.io.atomic import writable_folder
    from skiplab.serialization import check_formats

    names = [name.strip() for name in (formats or default).split(",")]
    check_formats(names, training=training)
    writable_folder(out)
    return names
