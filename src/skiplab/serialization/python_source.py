"""A network as a Python file that needs only torch and safetensors."""

import keyword
import re
from collections.abc import Iterable

from jinja2 import Environment, PackageLoader, StrictUndefined

import skiplab
from skiplab.errors import UsageError
from skiplab.graph.codegen import Code
from skiplab.graph.program import Program
from skiplab.graph.source_map import MARK, heading
from skiplab.serialization.pytree_source import example, forms_of, given, homes, importable, is_flat
from skiplab.serialization.state import Entry

_TEMPLATES = Environment(
    loader=PackageLoader("skiplab.serialization"),
    undefined=StrictUndefined,
    autoescape=False,  # the template is Python, not HTML
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TAKEN = frozenset("Path TENSORS FOLDER INPUTS OUTPUTS load_file nn torch pytree network example device".split())
_OF_TORCH = frozenset("aten prim prims quantized higher_order rngprims inductor mkldnn onednn".split())
_WHAT = {
    "network.safetensors": "its parameters and buffers, as a state dict",
    "constants.safetensors": "what else its `forward` reads",
    "example.safetensors": "inputs for it",
}


def source(program: Program, code: Code, entries: Iterable[Entry], files: Iterable[str]) -> str:
    """The text of `network.py`.

    Args:
        program: the network.
        code: the code of its module.
        entries: the module's tensors.
        files: names of the files of tensors next to this one.

    Raises:
        UsageError: for forms of inputs and outputs, and for operators, that a file cannot import.
    """
    head, _, text = _tidied(code.text).partition("def forward(")
    signature, _, rest = text.partition("\n")
    return _TEMPLATES.get_template("network.py.j2").render(
        name=_class_name(program.name),
        mark=f"{MARK} {skiplab.__version__}",
        files={name: _WHAT[name] for name in files},
        imports=_imports(head, code),
        entries=entries,
        forms=forms_of(code),
        arguments=code.arguments,
        flat=_flat(program, code),
        body=f"{signature}\n{_headed(rest, program)}",
        example=example(program, code),
    )


def _flat(program: Program, code: Code) -> str | None:
    """The arguments as the code takes them, if inputs or outputs are more than tuples of tensors."""
    if code.specs is None:
        return None
    return ", ".join(code.arguments) if is_flat(code.specs[0]) else f"*INPUTS.flatten_up_to({given(program, code)})"


def _tidied(text: str) -> str:
    """Removes statements that only drop a weight's name. Those that free a value after its last reader stay."""
    idle = set(re.findall(r"^ +(\w+) = (?:self\.|getattr\(self[.,])", text, re.MULTILINE))
    lines = []
    for line in text.splitlines():
        kept, _, dropped = line.partition(";  ")
        names = [name for name in dropped.removesuffix(" = None").split(" = ") if name and name not in idle]
        lines.append("; ".join([kept, *([" = ".join([*names, "None"])] if names else [])]))
    return "\n".join([*lines, ""])


def _headed(body: str, program: Program) -> str:
    """The code with a comment before each part that names the module it comes from."""
    lines, waiting, last = [], [], None
    for line in body.splitlines():
        op = program.by_name.get(line.split(" = ")[0].strip())
        if op is not None and op.inputs:
            if op.module != last:
                lines.append(f"    {heading(op.module)}")
            last = op.module
            lines += [*waiting, line]
            waiting = []
        else:
            waiting.append(line)
    return "\n".join([*lines, *waiting, ""])


def _class_name(name: str) -> str:
    name = re.sub(r"\W", "_", name)
    return f"{name}_" if name in _TAKEN or keyword.iskeyword(name) or not name.isidentifier() else name


def _imports(head: str, code: Code) -> list[str]:
    own = ["from pathlib import Path", "from safetensors.torch import load_file", "from torch import nn"]
    if code.specs is not None:
        own.append("from torch.utils import _pytree as pytree")
        own += [f"import {name}  # knows the form of what goes in or out" for name in homes(code.specs)]
    own += [f"import {name}  # brings operators" for name in _libraries(code.text)]
    lines = {"import torch", *own, *(line for line in head.splitlines() if line)}
    return sorted(lines, key=lambda line: (line.startswith("from "), line))


def _libraries(text: str) -> list[str]:
    """Packages other than torch whose operators the code calls."""
    spaces = sorted(set(re.findall(r"torch\.ops\.(\w+)\.", text)))
    foreign = [name for name in spaces if name not in _OF_TORCH]
    for name in foreign:
        if not importable(name):
            raise UsageError(
                f"the network calls operators `{name}::…`, and no package `{name}` brings them, so no file could: "
                "put them into an importable package of that name"
            )
    return foreign
