"""The format `python`: a Python file, and files of tensors next to it."""

import importlib.util
from pathlib import Path
from types import ModuleType

from torch import Tensor

from skiplab.graph.program import Program
from skiplab.io.atomic import write_text
from skiplab.loading.resolve import quiet
from skiplab.serialization import state
from skiplab.serialization.compare import Answer, check
from skiplab.serialization.python_source import source


def write(program: Program, folder: Path, known: list[Answer]) -> float:
    """Writes the files, reads them back, and returns the largest difference from the known answers."""
    module = program.module()
    entries = state.entries(module)
    flat = zip(program.inputs, program.flatten(*program.example), strict=True)
    files = {
        "network.safetensors": state.of_state(entries),
        "constants.safetensors": state.constants(entries),
        "example.safetensors": {name: value for name, value in flat if isinstance(value, Tensor)},
    }
    files = {name: held for name, held in files.items() if held or name == "network.safetensors"}
    text = source(program, program.code, entries, files)
    for name, held in files.items():
        state.write(folder / name, held)
    write_text(folder / "network.py", text)
    with quiet():
        model, _ = _imported(folder / "network.py").network()
        model.to(_device(known)).train(program.training)
        return check(model, known, "network.py")


def _imported(file: Path) -> ModuleType:
    """Imports the file as a module that is not in `sys.modules`."""
    spec = importlib.util.spec_from_file_location("skiplab_saved_network", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _device(known: list[Answer]) -> str:
    """The device of the outputs: a network is on one device."""
    return str(next((value.device for value in known[0].outputs), "cpu"))
