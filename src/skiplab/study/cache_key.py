"""The code that a study's run executes, as one hash: part of the run's cache key.

The hash covers the syntax tree of each function, class and constant of the package that the run's `work` reaches, in
the order of first mention, and the code that writes its tables. A mention is written as the number of its definition in
this order. So the module of a definition, its imports, and the names of functions and constants do not count. Neither
do

- comments, docstrings and annotations;
- messages, which no table holds: strings and f-strings (with all that an f-string interpolates) in `raise` and `assert`
  statements, in calls of a name that ends in `Error` or `Warning`, and in calls of `warn` and `report`.

The names of classes do count, since `type(x).__name__` reads them, and those of methods, attributes, parameters and
local variables. A class counts whole, and so does a module used as a value: `getattr(models, name)`. What lies outside
the package counts by its full name.

Not followed are modules loaded by a computed name, and changes that one module's top level makes to what another one
defines, as registration by a decorator does. The tests check that no run depends on either.
"""

import ast
import functools
import hashlib
import importlib.util
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import skiplab

Definition = tuple[str, str]  # module and name; without a name, the whole module
Words = list[str | Definition]  # code in which mentions of the package's definitions are still to be numbered
Scope = dict[str, Definition | None]  # what each name stands for; None for a local variable

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCOPES = (*_FUNCTIONS, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_NESTED_OR_LEAF = (*_SCOPES, ast.ClassDef, ast.Name, ast.Constant)  # nothing below is of the scope around
RUNNER = ("skiplab.study.run_cell", "run_and_save")  # calls the `work` of any study and writes its tables
_IGNORED = {"annotation", "returns", "type_comment", "kind", "ctx"}
_TAKES_MESSAGE = re.compile(r"(Error|Warning|^warn|^report)$")
_FIELD_KINDS = re.compile(r"\b(?:ClassVar|InitVar|KW_ONLY)\b")  # the annotations that change what a dataclass does


@functools.cache
def code_hash(study: str | None) -> str:
    """Hash of the code that runs of a study execute, and of torch's version.

    Runs of a study without a file in `questions` execute the code that compares the user's networks.
    """
    import torch

    package, question = _skiplab(), f"skiplab.study.questions.{study}"
    work = (question if package.module(question) else "skiplab.study.comparison", "work")
    code = [each for entry in (work, RUNNER) for each in package.reached(*entry).values()]
    return hashlib.sha256("\n".join([torch.__version__, *code]).encode()).hexdigest()[:16]


@functools.cache
def _skiplab() -> "Package":
    return Package(Path(skiplab.__file__).parent)


class Module(NamedTuple):
    """The top level of a source file.

    Attributes:
        parent: the package from which its relative imports start.
        imports: what each imported name stands for.
        statements: for each name defined here, those that define or change it.
    """

    parent: str
    imports: dict[str, Definition]
    statements: dict[str, list[ast.stmt]]


class Package:
    """The source files of a package, parsed when they are first needed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[str, Module | None] = {}
        self._words: dict[Definition, Words] = {}

    def module(self, name: str) -> Module | None:
        """The module of that full name; None if the package has none."""
        if name not in self._modules:
            path = self.root.parent.joinpath(*name.split("."))
            files = {path / "__init__.py": name, path.with_suffix(".py"): name.rpartition(".")[0]}
            found = (_parsed(file, parent) for file, parent in files.items() if file.is_file())
            self._modules[name] = next(found, None) if path.is_relative_to(self.root) else None
        return self._modules[name]

    def reached(self, module: str, name: str) -> dict[Definition, str]:
        """The code of a definition and of all that it reaches, in the order of first mention."""
        ahead = [each for each in self.resolve((module, name)) if not isinstance(each, str)]
        numbers, code = {each: number for number, each in enumerate(ahead)}, {}
        for definition in ahead:
            words = self._written(definition)
            for new in (each for each in words if not isinstance(each, str) and each not in numbers):
                numbers[new] = len(numbers)
                ahead.append(new)
            code[definition] = " ".join(word if isinstance(word, str) else f"#{numbers[word]}" for word in words)
        return code

    def resolve(self, definition: Definition, attributes: Sequence[str] = ()) -> Words:
        """The definition that a name stands for, or an attribute of it if it is a module; then the other attributes."""
        module, *names = filter(None, (*definition, *attributes))
        while here := self.module(module):
            name, *rest = names or [""]
            target = here.imports.get(name, (module, name))
            if not name or name in here.statements:
                return [(module, name), *rest]
            if target != (module, name):
                module, *names = filter(None, (*target, *rest))
            elif self.module(f"{module}.{name}"):
                module, names = f"{module}.{name}", rest
            elif "*" in here.imports:
                module = here.imports["*"][0]
            else:  # only the module's `__getattr__` knows
                return [(module, ""), *names]
        return [".".join([module, *names])]

    def _written(self, definition: Definition) -> Words:
        """The code of a definition; of a whole module, what each of its names stands for."""
        if definition not in self._words:
            module, name = definition
            source = self.module(module)
            assert source, f"{self.root} has no module {module}"
            scope: Scope = {each: (module, each) for each in sorted({*source.imports, *source.statements})}
            writer = _Writer(self, source.parent)
            for statement in source.statements[name] if name else ():
                writer.write(statement, scope)
            if name in source.imports:
                writer.words += self.resolve(source.imports[name])
            for each in scope if not name else ():
                writer.words += [each, *self.resolve((module, each))]
            texts = itertools.groupby(writer.words, key=lambda word: isinstance(word, str))
            self._words[definition] = [
                word for text, words in texts for word in ([" ".join(map(str, words))] if text else words)
            ]
        return self._words[definition]


class _Writer:
    """Writes syntax trees as words."""

    def __init__(self, package: Package, parent: str) -> None:
        self.package, self.parent = package, parent
        self.words: Words = []

    def write(self, node: ast.AST, scope: Scope, in_class: bool = False, in_message: bool = False) -> None:
        """A node with all below it; names bound directly in the body of a class are attributes."""
        match node:
            case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.Import() | ast.ImportFrom():
                return
            case ast.Constant(value=str()) | ast.JoinedStr() if in_message:
                return
            case ast.Name() | ast.Attribute() if reference := self._reference(node, scope, in_class):
                self.words += reference
                return
            case ast.AnnAssign(annotation=annotation) if in_class:
                self.words += _FIELD_KINDS.findall(ast.unparse(annotation))
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                node = ast.Assign([target], value)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                self.words.append((not in_class and scope.get(name)) or name)
            case ast.Raise() | ast.Assert():
                in_message = True
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if _TAKES_MESSAGE.search(name):
                in_message = True
        if isinstance(node, _SCOPES):
            in_class = False
            for outside in _evaluated_outside(node):
                self.write(outside, scope, in_class, in_message)
            bound = _names(ast.iter_child_nodes(node), self.parent)
            scope = scope | dict(sorted(bound, key=lambda each: each[1] is not None))  # an import counts in any case
        self._write_fields(node, scope, in_class or isinstance(node, ast.ClassDef), in_message)

    def _write_fields(self, node: ast.AST, scope: Scope, in_class: bool, in_message: bool) -> None:
        self.words.append(f"{type(node).__name__}(")
        for field, value in ast.iter_fields(node):
            if field in _IGNORED or value is None or value == [] or (field == "name" and isinstance(node, _FUNCTIONS)):
                continue
            self.words.append(f"{field}=")
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, ast.AST):
                    self.write(each, scope, in_class, in_message)
                else:
                    self.words.append(repr(each))
        self.words.append(")")

    def _reference(self, node: ast.expr, scope: Scope, in_class: bool) -> Words:
        """What a dotted name refers to; nothing where it starts from a variable or an attribute."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or (in_class and isinstance(node.ctx, ast.Store)):
            return []
        target = scope.get(node.id)
        return self.package.resolve(target, names) if target else []


def _parsed(file: Path, parent: str) -> Module:
    """The module in a file. A top-level loop or call counts for each of its names, since it may change any of them."""
    found = Module(parent, {}, {})
    body = ast.parse(file.read_text("utf-8")).body
    bound = [list(_names([node], parent)) for node in body]
    found.imports.update((name, target) for names in bound for name, target in names if target)
    found.statements.update((name, []) for names in bound for name, target in names if not target)
    for node, names in zip(body, bound, strict=True):
        changed = {name for name, target in names if not target}
        if not changed or not isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Assign, ast.AnnAssign)):
            changed |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        for name in changed & found.statements.keys():
            found.statements[name].append(node)
    return found


def _evaluated_outside(node: ast.AST) -> list[ast.expr]:
    """The parts of a function or comprehension that see the names around it instead of its own."""
    match node:
        case ast.AST(generators=[first, *_]):
            return [first.iter]
        case ast.AST(args=ast.arguments(defaults=defaults, kw_defaults=named)):
            return [*getattr(node, "decorator_list", ()), *defaults, *filter(None, named)]
    return []


def _names(nodes: Iterable[ast.AST], parent: str) -> Iterator[tuple[str, Definition | None]]:
    """Each name that the nodes bind in their own scope; if by an import, with what it stands for."""
    own = list(nodes)
    for node in own:
        if not isinstance(node, _NESTED_OR_LEAF):
            own += ast.iter_child_nodes(node)
    elsewhere = {name for node in own if isinstance(node, ast.Global) for name in node.names}
    for node in own:
        match node:
            case ast.Name(id=name):
                if not isinstance(node.ctx, ast.Load) and name not in elsewhere:
                    yield name, None
            case ast.Import(names=aliases):
                for alias in aliases:
                    name = alias.asname or alias.name.partition(".")[0]
                    yield name, (alias.name if alias.asname else name, "")
            case ast.ImportFrom(module=module, names=aliases, level=level):
                module = importlib.util.resolve_name("." * level + (module or ""), parent)
                yield from ((alias.asname or alias.name, (module, alias.name)) for alias in aliases)
            case ast.alias() | ast.expr():
                pass
            case ast.arg(arg=name) | ast.MatchMapping(rest=str(name)) | ast.AST(name=str(name)):
                yield name, None  # the last are functions, classes, `except` and `case`
