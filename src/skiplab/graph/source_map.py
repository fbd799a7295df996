"""Where in the user's source code an op stands: file and line, from its stack trace, and module path.

A saved network is one generated file. Comments in it, the headings, give the module of the original for each line.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

import torch
from torch.fx import Node

MARK = "saved by Skiplab"  # in the first line of a saved network's file, and of no other
_COMMENT = re.compile(r" +# (\S+)")
_FRAME = re.compile(r'\s*File "([^"]*)", line (\d+)(?:, in (.*))?')

# Frames of torch's own Python stand between an operator and the line that calls it. Only torch's modules are networks,
# and among them a recurrent one is a single operator, whose place is its caller's.
_TORCH = str(Path(torch.__file__).parent) + os.sep
_MODULES = os.path.join(_TORCH, "nn", "modules") + os.sep
_CALLERS = tuple(f"{_MODULES}{name}.py" for name in ("module", "container", "rnn"))


def is_in_network(file: str) -> bool:
    """Whether the code in a file belongs to a network: it is outside torch, or one of torch's modules.

    Not the wrappers that decorators generate, whose file is called "<@…>".
    """
    return not file.startswith((_TORCH, "<@")) or (file.startswith(_MODULES) and file != _CALLERS[0])


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a stack trace."""

    file: str
    line: int
    function: str

    @property
    def source(self) -> str:
        """ "file:line"."""
        return f"{self.file}:{self.line}"

    @property
    def is_torch(self) -> bool:
        """Whether the line is in torch's own code."""
        return self.file.startswith(_TORCH)


def trace_text(frames: Iterable[tuple[CodeType, int]]) -> str:
    """A stack trace as Python prints it, of (code, line) with the innermost first."""
    lines = [f'  File "{code.co_filename}", line {line}, in {code.co_name}\n' for code, line in frames]
    return "".join(reversed(lines))


def parse_trace(trace: str | None) -> list[Frame]:
    """All frames of a stack trace as Python prints it, the outermost first."""
    found = (_FRAME.match(line) for line in (trace or "").splitlines())
    return [Frame(each[1], int(each[2]), (each[3] or "").strip()) for each in found if each]


def innermost_source(trace: str | None) -> str | None:
    """ "file:line" of the innermost frame that is not torch's plumbing; None where there is none."""
    for frame in reversed(parse_trace(trace)):
        if not frame.is_torch or (frame.file.startswith(_MODULES) and frame.file not in _CALLERS):
            return frame.source
    return None


def frames(node: Node | None) -> tuple[Frame, ...]:
    """The lines that lead to a node, the outermost first; empty where the graph has no stack trace.

    Of torch's own code, only the `forward` of its modules is included.
    """
    trace = parse_trace(node.meta.get("stack_trace")) if node is not None else []
    return tuple(
        frame
        for frame in trace
        if not frame.is_torch or (frame.file.startswith(_MODULES) and frame.function == "forward")
    )


def module_calls(node: Node | None) -> tuple[tuple[str, str, str], ...]:
    """The modules whose `forward` leads to a node, the outermost first: (key of the call, path, class).

    The key of a module's second call ends in `@1`, so that it differs from the first.
    """
    if node is None:
        return ()
    return tuple((key, path, str(kind)) for key, (path, kind) in (node.meta.get("nn_module_stack") or {}).items())


def frames_by_call(node: Node | None) -> tuple[tuple[str, tuple[Frame, ...]], ...]:
    """For each module call, its key and the lines from its `forward` to that of the next call, or to the node.

    Empty where calls and lines do not match.
    """
    parts: list[list[Frame]] = []
    for frame in frames(node):
        if frame.function == "forward":
            parts.append([])
        if parts:
            parts[-1].append(frame)
    keys = [key for key, _, _ in module_calls(node)]
    return tuple(zip(keys, map(tuple, parts), strict=True)) if len(keys) == len(parts) else ()


def written_at(node: Node | None) -> str | None:
    """ "file:line" of the innermost line outside torch: the one that the user would edit."""
    own = [frame for frame in frames(node) if not frame.is_torch]
    return own[-1].source if own else None


def called_at(node: Node | None) -> str | None:
    """ "file:line" of the line that calls the innermost module of a node."""
    outer = [frame for _, part in frames_by_call(node)[:-1] for frame in part if not frame.is_torch]
    return outer[-1].source if outer else written_at(node)


def common_path(paths: Iterable[str]) -> str:
    """The path of the innermost module that holds all of these modules; "" for the root."""
    shared = []
    for parts in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def heading(path: str) -> str:
    """The comment above the lines of a module; "" is the root."""
    return f"# {path or '.'}"


def paths_in(file: str) -> list[str]:
    """For each line of a saved network's file, the module path in its heading; empty for any other file."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    if not lines or MARK not in lines[0]:
        return []
    paths, last = [], ""
    for line in lines:
        found = _COMMENT.fullmatch(line)
        if found:
            last = found[1].removeprefix(".")
        paths.append(last)
    return paths


class SourceMap:
    """Looks up source lines and module paths of nodes; reads each stack trace and each file once."""

    def __init__(self) -> None:
        self._sources: dict[str, str | None] = {}  # stack trace -> source
        self._paths: dict[str, list[str]] = {}  # file -> module path of each line

    def source(self, node: Node) -> str | None:
        """ "file:line" of the user's call; None where the graph has no stack trace."""
        trace = node.meta.get("stack_trace")
        if not trace:
            return None
        if trace not in self._sources:
            self._sources[trace] = innermost_source(trace)
        return self._sources[trace]

    def module(self, node: Node) -> str:
        """Path of the module whose `forward` calls the node's operator; "" for the root.

        In a saved network, which has one `forward`, it is the original's module, from the headings in its code.
        """
        return _module_path(node) or self._module_in_saved_code(self.source(node))

    def _module_in_saved_code(self, source: str | None) -> str:
        file, _, line = (source or ":0").rpartition(":")
        if file not in self._paths:
            self._paths[file] = paths_in(file)
        paths = self._paths[file]
        return paths[int(line) - 1] if 0 < int(line) <= len(paths) else ""


def _module_path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path, _ = list(stack.values())[-1]
    return module_name(path)


def module_name(path: str) -> str:
    """ "layer.0" of torch.export's "L['self'].layer.0@1": calls after the first have a number."""
    return ".".join(part.split("@")[0] for part in path.removeprefix("L['self']").lstrip(".").split("."))
