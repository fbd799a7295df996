"""Where in Python an op of the graph was called: the frames of its stack trace, and the modules called."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.fx import Node

from skiplab.graph.program import Program

_TORCH = str(Path(torch.__file__).parent) + os.sep
_MODULES = str(Path(_TORCH, "nn", "modules")) + os.sep


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a stack trace."""

    file: str
    line: int
    function: str

    @property
    def source(self) -> str:
        return f"{self.file}:{self.line}"


def frames(node: Node | None) -> tuple[Frame, ...]:
    """The lines that led to a node, the outermost first; empty where they are not known.

    Of torch's own code only the `forward` of its modules is among them.
    """
    found = []
    for line in (node.meta.get("stack_trace") or "").splitlines() if node is not None else ():
        if line.lstrip().startswith('File "'):
            _, file, rest = line.split('"', 2)
            number, _, function = rest.removeprefix(", line ").partition(", in ")
            frame = Frame(file, int(number), function.strip())
            if not file.startswith(_TORCH) or (file.startswith(_MODULES) and frame.function == "forward"):
                found.append(frame)
    return tuple(found)


def calls(node: Node | None) -> tuple[tuple[str, str, str], ...]:
    """The modules in whose `forward` a node stands, the outermost first: (key of the call, path, class).

    The key of a module's second call ends in `@1`, and so tells the calls of one module apart.
    """
    if node is None:
        return ()
    return tuple((key, path, str(kind)) for key, (path, kind) in (node.meta.get("nn_module_stack") or {}).items())


def placed(node: Node | None) -> tuple[tuple[str, tuple[Frame, ...]], ...]:
    """For each module call its key and the lines from its `forward` on to the next one's, or to the node.

    Empty where modules and lines do not match.
    """
    parts: list[list[Frame]] = []
    for frame in frames(node):
        if frame.function == "forward":
            parts.append([])
        if parts:
            parts[-1].append(frame)
    keys = [key for key, _, _ in calls(node)]
    return tuple(zip(keys, map(tuple, parts), strict=True)) if len(keys) == len(parts) else ()


def written_at(program: Program, name: str) -> str | None:
    """The innermost line that asked for a node and is not torch's own, which is the one that the user would edit."""
    node = program.nodes.get(name)
    own = [frame for frame in frames(node) if not frame.file.startswith(_TORCH)]
    return own[-1].source if own else None


def called_at(program: Program, name: str) -> str | None:
    """The line that called the innermost module in which a node stands."""
    outer = [f for _, part in placed(program.nodes.get(name))[:-1] for f in part if not f.file.startswith(_TORCH)]
    return outer[-1].source if outer else written_at(program, name)
