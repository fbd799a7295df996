"""Which of the package's code shapes the outcome of a run: what the `work` of its question reaches, and nothing else.

A changed line there makes it another run; another sentence, chart or command does not.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


@functools.cache
def code_of(study: str | None) -> str:
    """Hash of that code, and of torch's version; of a study that is no question, the code that compares networks."""
    import torch

    question = PACKAGE / "study" / "questions" / f"{study}.py"
    file = question if question.is_file() else PACKAGE / "study" / "own.py"
    own = reached(ast.parse(file.read_text(encoding="utf-8")), "work")
    digest = hashlib.sha256(torch.__version__.encode())
    digest.update("\n".join(ast.dump(statement) for statement in own).encode())
    for path in sorted(modules(own)):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def reached(module: ast.Module, entry: str) -> list[ast.stmt]:
    """The statements at the top of a module that one of its names depends on, in their order."""
    defined = {name: statement for statement in module.body for name in _names(statement)}
    seen: set[str] = set()
    ahead = [entry]
    while ahead:
        name = ahead.pop()
        if name in defined and name not in seen:
            seen.add(name)
            ahead += _read(defined[name])
    return [statement for statement in module.body if seen.intersection(_names(statement))]


def modules(statements: list[ast.stmt]) -> set[Path]:
    """The package's files that the statements import, and what those import, wherever in them."""
    found: set[Path] = set()
    ahead = [path for statement in statements for path in _imported(statement)]
    while ahead:
        path = ahead.pop()
        if path not in found:
            found.add(path)
            ahead += _imported(ast.parse(path.read_text(encoding="utf-8")))
    return found


def _names(statement: ast.stmt) -> list[str]:
    """What a statement at the top of a module defines."""
    match statement:
        case ast.FunctionDef() | ast.ClassDef():
            return [statement.name]
        case ast.Assign(targets=targets):
            return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Import() | ast.ImportFrom():
            return [alias.asname or alias.name for alias in statement.names]
    return []


def _read(tree: ast.AST) -> Iterator[str]:
    """The names in a statement, those of its annotations left out: they change nothing that is computed."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.Name):
                yield node.id
            elif isinstance(node, ast.AST):
                yield from _read(node)


def _imported(tree: ast.AST) -> Iterator[Path]:
    """The package's files that are named in imports; not its own first file, which loads others on demand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for package, *parts in (name.split(".") for name in names):
            if package == PACKAGE.name and parts:
                path = PACKAGE.joinpath(*parts)
                yield from (each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file())
