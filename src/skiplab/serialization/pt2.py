"""The format `pt2`: the graph exported again by `torch.export`."""

from pathlib import Path

import torch
from torch.export import ExportedProgram

from skiplab.errors import CaptureError, OutputError
from skiplab.graph.export import exported
from skiplab.graph.program import Program
from skiplab.loading.resolve import quiet
from skiplab.serialization.compare import Answer, check


def write(program: Program, folder: Path, known: list[Answer]) -> float:
    """Writes `network.pt2`, reads it back, and returns the largest difference from the known answers."""
    file = folder / "network.pt2"
    with quiet():
        graph = export_again(program)
        torch.export.save(graph, file)
        return check(torch.export.load(file).module(), known, file.name)


def export_again(program: Program) -> ExportedProgram:
    """The program as `torch.export` gives it, with a free batch size where the program has one.

    Raises:
        OutputError: `torch.export` fails, or fixes the batch size.
    """
    try:
        graph, free = exported(program.module().train(program.training), program.example)
    except CaptureError as error:
        raise OutputError(f"{error}; or use the format python") from error
    if program.dynamic_batch and not free:
        raise OutputError(f"{program.name}, exported again, takes batches of one size only: use the format python")
    return graph
