"""From the nodes of a graph to the user's code: the line that called an operator, and the module it is part of.

Code that Skiplab saved has comments in it that name the original's modules. They are written and read here.
"""

import re
from pathlib import Path

import torch
from torch.fx import Node

MARK = "saved by Skiplab"  # in the first line of a saved file, and of no other file
_COMMENT = re.compile(r" +# (\S+)")

# Frames of torch's own Python lie between an operator and the user's line. Only torch's modules count as networks,
# and among these a recurrent module is one operator: the line that called it counts.
_TORCH = f"{Path(torch.__file__).parent}/"
_MODULES = f"{_TORCH}nn/modules/"
_CALLERS = tuple(f"{_MODULES}{name}.py" for name in ("module", "container", "rnn"))


def heading(path: str) -> str:
    """The comment above the code of the module of this path; "" is the root."""
    return f"# {path or '.'}"


def paths_in(file: str) -> list[str]:
    """For each line of a saved file the module path in the heading above it; empty for any other file."""
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


def innermost_source(trace: str) -> str | None:
    """ "file:line" of a stack trace's innermost frame that is not torch's plumbing; None where there is none."""
    for line in reversed(trace.splitlines()):
        if line.lstrip().startswith('File "'):
            _, file, rest = line.split('"', 2)
            if not file.startswith(_TORCH) or (file.startswith(_MODULES) and file not in _CALLERS):
                return f"{file}:{rest.split('line ')[1].split(',')[0]}"
    return None


def _module_path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path, _ = list(stack.values())[-1]
    return module_name(path)


def module_name(path: str) -> str:
    """ "layer.0" of torch.export's "L['self'].layer.0@1": calls after the first have a number."""
    return ".".join(part.split("@")[0] for part in path.removeprefix("L['self']").lstrip(".").split("."))
