"""Forms of inputs and outputs as Python source: tuples and dicts directly, other forms by pytree's own text."""

import importlib.util
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from skiplab.errors import UsageError
from skiplab.graph.codegen import Code
from skiplab.graph.program import Program
from skiplab.graph.torch_compat import pytree

_MEND = "let `forward` take and return tensors, or tuples, lists and dicts of tensors"


def homes(specs: Iterable[pytree.TreeSpec]) -> list[str]:
    """The modules that define the classes of inputs and outputs, and so register them with pytree."""
    kinds = {spec.type for tree in specs for spec in _nested(tree)} - {tuple, list, dict}
    return sorted({kind.__module__ for kind in kinds if kind is not None and kind.__module__ != "builtins"})


def _nested(spec: pytree.TreeSpec) -> Iterator[pytree.TreeSpec]:
    if not spec.is_leaf():
        yield spec
        for child in spec.children():
            yield from _nested(child)


def forms_of(code: Code) -> dict[str, str]:
    """The forms of inputs and outputs as expressions by name, if they are more than a tuple of tensors."""
    if code.specs is None:
        return {}
    inputs, outputs = code.specs
    wanted = {"OUTPUTS": outputs} if is_flat(inputs) else {"INPUTS": inputs, "OUTPUTS": outputs}
    for home in homes(wanted.values()):
        if not importable(home):
            raise UsageError(f"inputs or outputs have a class of `{home}`, which no other program can import: {_MEND}")
    try:
        return {name: f"pytree.treespec_loads({pytree.treespec_dumps(spec)!r})" for name, spec in wanted.items()}
    except NotImplementedError as error:
        raise UsageError(f"inputs or outputs have a form that cannot be written ({error}): {_MEND}") from error


def importable(name: str) -> bool:
    """Whether a module can be imported without the user's file."""
    if name == "__main__" or name.startswith("skiplab_user_"):
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def is_flat(inputs: pytree.TreeSpec) -> bool:
    """Whether each argument is a single value."""
    return all(leaf.is_leaf() for group in inputs.children() for leaf in group.children())


def given(program: Program, code: Code) -> str:
    """ "((x,), {'mask': mask})": the arguments as at the capture."""
    count = len(program.example[0])
    args = "".join(f"{name}, " for name in code.arguments[:count])
    kwargs = ", ".join(f"{key!r}: {key}" for key in code.arguments[count:])
    return f"(({args}), {{{kwargs}}})"


def example(program: Program, code: Code) -> str:
    """The body of a function that returns the example: a tuple of arguments, or a dict if some have names."""
    values = dict(zip(program.inputs, program.flatten(*program.example), strict=True))
    texts = [_leaf(name, value) for name, value in values.items()]
    count, named = len(program.example[0]), bool(program.example[1])
    lines = []
    if any(isinstance(value, Tensor) for value in values.values()):
        lines.append('tensors = load_file(FOLDER / "example.safetensors")')
    if is_flat(program.specs[0]):
        whole = dict(zip(code.arguments, texts, strict=True))
        pairs = ", ".join(f'"{name}": {text}' for name, text in whole.items())
        lines.append(f"return {{{pairs}}}" if named else f"return ({', '.join(texts)}{',' * (len(texts) == 1)})")
    else:
        lines.append(f"args, kwargs = pytree.tree_unflatten([{', '.join(texts)}], INPUTS)")
        lines.append(f"return dict(zip({code.arguments[:count]!r}, args)) | kwargs" if named else "return args")
    return "\n".join(lines)


def _leaf(name: str, value: Any) -> str:
    if isinstance(value, Tensor):
        return f'tensors["{name}"]'
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if value is None or isinstance(value, (bool, int, str, torch.dtype)):
        return repr(value)
    raise UsageError(f"the example's `{name}` is a {type(value).__name__}, which a file cannot hold: {_MEND}")
