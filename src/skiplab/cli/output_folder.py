"""The folder of `--out`: the identity of its results, and the message on how to resume."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from skiplab.cli.model_options import ModelOptions
from skiplab.cli.session import MeasuredProgram
from skiplab.data.sources import DataRequest
from skiplab.graph.program import Program
from skiplab.graph.torch_compat import pytree
from skiplab.io.hashing import checksum
from skiplab.serialization import save


def measurement_identity(
    model: ModelOptions, data_request: DataRequest, measured: MeasuredProgram, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that the results depend on, as JSON; results of equal identity can share a folder."""
    first = pytree.tree_leaves(next(iter(measured.batches)))
    program = measured.program
    identity = {
        "model": {
            "name": model.spec,
            "kwargs": model.keywords(),
            "training": program.training,
            "seed": model.seed,
            "fingerprint": program.fingerprint,
            "weights": checksum(program.tensors.values()),
        },
        "data": {
            **asdict(data_request),
            "first_batch": checksum(t for t in first if isinstance(t, Tensor)),
        },
        "options": dict(options),
        "versions": {name: version(name) for name in ("skiplab", "torch")},
    }
    return json.loads(json.dumps(identity))  # turns tuples into lists, as in the file


def save_network(program: Program, out: Path | None, formats: list[str]) -> pd.DataFrame | None:
    """Saves a network in these formats, if there is a folder: its files, as `skiplab.save` returns them."""
    return None if out is None else save(program, out, formats)


def resume_hint(out: Path | None) -> str:
    """How to continue after an interruption."""
    if out is None:
        return "results are saved only with --out FOLDER"
    return f"to resume from {out}, run the same command again"
