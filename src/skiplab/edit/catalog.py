"""Names and summaries of the edits, read from the source of `registry`: importing the edits would import torch."""

import ast
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skiplab.graph.program import Program

_REGISTRY = "skiplab.edit.registry"


@cache
def edit_summaries() -> dict[str, str]:
    """The first line of the docstring of each edit, by name, in alphabetical order."""
    summaries: dict[str, str] = {}
    for line in _parse(_REGISTRY).body:
        if isinstance(line, ast.ImportFrom):
            functions = {f.name: f for f in _parse(str(line.module)).body if isinstance(f, ast.FunctionDef)}
            for name in (alias.name for alias in line.names):
                summaries[name] = (ast.get_docstring(functions[name]) or "").partition("\n")[0]
    return dict(sorted(summaries.items()))


def load_edit(name: str) -> "Callable[..., Program]":
    """The function of an edit. Imports torch."""
    return getattr(import_module(_REGISTRY), name)


def _parse(module: str) -> ast.Module:
    spec = find_spec(module)
    assert spec is not None
    return ast.parse(spec.loader.get_source(module))  # type: ignore[union-attr]
