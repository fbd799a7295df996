"""The format `onnx`: the graph as an ONNX file, run in onnxruntime and compared."""

import contextlib
import importlib
import importlib.util
import logging
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.errors import OutputError, UsageError
from skiplab.graph.program import Program
from skiplab.graph.source_map import parse_trace
from skiplab.loading.resolve import quiet
from skiplab.serialization.compare import Answer, check
from skiplab.serialization.pt2 import export_again

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_OUT = "leave onnx out of the formats: python and pt2 hold any network"


def check_available(*, training: bool) -> None:
    """UsageError if packages are missing, or for a training graph."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"ONNX files take {' and '.join(missing)}: pip install 'skiplab[onnx]', or leave onnx out of the formats"
        )
    if training:
        raise UsageError("ONNX files hold inference graphs: capture the network without train, or use python and pt2")


def write(program: Program, folder: Path, known: list[Answer]) -> float:
    """Writes `network.onnx`, runs it in onnxruntime, and returns the largest difference from the known answers.

    Where the weights take more than 2 GB, ONNX wants them in a file of their own, `network.onnx.data`.
    """
    file = folder / "network.onnx"
    with quiet(), _silent():
        graph = export_again(program)
        names = _input_names(program), _output_names(program)
        try:
            made = torch.onnx.export(graph, input_names=names[0], output_names=names[1], dynamo=True, verbose=False)
            assert made is not None
            made.save(file)
        except Exception as error:
            raise OutputError(_unknown_operator(program, error)) from error
        return check(_Session(program, file), known, file.name)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Switches logging off: the converter logs each attempt, and its result is checked anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class _Session:
    """An ONNX file that is called like the network."""

    def __init__(self, program: Program, file: Path) -> None:
        runtime: Any = importlib.import_module("onnxruntime")
        runtime.set_default_logger_severity(3)
        self.program = program
        try:
            self.session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise OutputError(f"onnxruntime cannot run the ONNX file of {program.name} ({error}): {_OUT}") from error

    def __call__(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        values = [each for each in self.program.flatten(args, kwargs) if isinstance(each, Tensor)]
        names = [each.name for each in self.session.get_inputs()]
        feed = {name: value.detach().cpu().numpy() for name, value in zip(names, values, strict=True)}
        try:
            return [torch.from_numpy(value) for value in self.session.run(None, feed)]
        except Exception as error:
            raise OutputError(f"onnxruntime fails on the ONNX file of {self.program.name} ({error}): {_OUT}") from error


def _input_names(program: Program) -> list[str]:
    values = zip(program.inputs, program.flatten(*program.example), strict=True)
    return [name for name, value in values if isinstance(value, Tensor)]


def _output_names(program: Program) -> list[str] | None:
    """The keys of a mapping; otherwise "output", or "output_0", "output_1", …."""
    spec = program.specs[1]
    last = next(reversed(program.graph.graph.nodes))
    if not all(isinstance(each, Node) for each in last.args[0]):  # type: ignore[union-attr]
        return None
    children = [] if spec.is_leaf() else spec.children()
    keys = [str(key) for key in spec.context] if isinstance(spec.context, list) else []
    if len(keys) == len(children) > 0 and all(child.is_leaf() for child in children):
        return [f"{key}_output" if key in program.inputs else key for key in keys]
    return ["output"] if spec.num_leaves == 1 else [f"output_{i}" for i in range(spec.num_leaves)]


def _unknown_operator(program: Program, error: BaseException) -> str:
    """The operator that the conversion fails on, and the line of the model's code that calls it."""
    chain = [*_chain(error)]
    last = str(chain[-1]).splitlines()[0] if str(chain[-1]) else type(chain[-1]).__name__
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(chain[-1]))
    what = f"ONNX has no operator for `{missing[1]}`" if missing else f"the conversion to ONNX fails ({last[:200]})"
    return f"{program.name} has no ONNX form: {what}{_place(program, chain)}; {_OUT}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _place(program: Program, chain: list[BaseException]) -> str:
    """ ", at `net.block` (file.py:12)". The converter's graph has lines of generated code, which are mapped back."""
    for error in reversed(chain):
        for frame, _ in traceback.walk_tb(error.__traceback__):
            node = frame.f_locals.get("node")
            if isinstance(node, Node):
                return _written(program, node)
    return ""


def _written(program: Program, node: Node) -> str:
    lines = [each.line for each in parse_trace(node.meta.get("stack_trace")) if each.file.startswith("<forward ")]
    text = program.code.text.splitlines()
    name = text[lines[-1] - 1].split("=")[0].strip() if lines else node.name
    op = program.by_name.get(name)
    if op is None:
        return f", at `{name}` of the graph"
    return f", at `{op.module or program.name}`" + (f" ({op.source})" if op.source else "")
