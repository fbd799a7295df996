"""Structure: which package may import which, no cycles among modules, names of files, sizes of functions."""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import skiplab

SOURCE = Path(str(skiplab.__file__)).parent

# A package imports from the lines above its own alone.
RANKS = """
errors
validation
io graph stats
models analysis report
loading linter verification
data serialization
training
measure
edit
pruning
study
cli
"""
RANK = {name: rank for rank, line in enumerate(RANKS.split("\n")) for name in line.split()}


def module_name(file: Path) -> str:
    """ "graph.ops", and "graph" for the package's own file."""
    return ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(file): file for file in sorted(SOURCE.rglob("*.py"))}


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """The package's modules that are imported, wherever in a file, without "skiplab."."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), level=0):
                names = [f"{module}.{alias.name}" for alias in node.names]
                yield from (own if own in FILES else own.rpartition(".")[0] for own in map(own_name, names) if own)
            case ast.Import():
                yield from (own for own in (own_name(alias.name) for alias in node.names) if own)
            case ast.ImportFrom(level=level):
                assert not level, "imports are absolute"


def own_name(name: str) -> str:
    package, _, rest = name.partition(".")
    return rest if package == "skiplab" else ""


IMPORTS = {name: set(imported_modules(ast.parse(file.read_text()))) - {name, ""} for name, file in FILES.items()}


def package(name: str) -> str:
    return name.partition(".")[0]


def test_every_package_has_a_rank() -> None:
    assert set(map(package, FILES)) - {"__init__"} == RANK.keys()


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_go_down_the_ranks(name: str) -> None:
    own = package(name)
    if own != "__init__":
        assert [other for other in IMPORTS[name] if package(other) != own and RANK[package(other)] >= RANK[own]] == []


def test_report_knows_tables_alone() -> None:
    """Charts and pages are drawn from DataFrames, so that whoever has a table can draw it."""
    for name in FILES:
        if package(name) == "report":
            assert {package(other) for other in IMPORTS[name]} <= {"report", "errors", "io", "stats"}


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Not even inside a function. A package's `__init__` hands names on, so imports of it count as of its own."""
    graph = {name: others for name, others in IMPORTS.items() if name != "__init__"}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" → ".join(reversed(error.args[1])))


def test_few_modules_stand_outside_a_package() -> None:
    assert {file.name for file in SOURCE.glob("*.py")} == {"__init__.py", "errors.py", "validation.py"}


def test_public_functions_are_not_shadowed_by_packages() -> None:
    """Importing `skiplab.find.x` would put a module in the place of the function `skiplab.find`."""
    packages = {folder.name for folder in SOURCE.iterdir() if folder.is_dir()}
    functions = {name for name in skiplab.__all__ if callable(getattr(skiplab, name))}
    assert packages & functions == set()


# Files of one name in different packages, each with the idea that they share.
SHARED_NAMES = {
    "gradient": "the norm of the loss's gradient: the measure, and the question that trains networks on it",
    "measure": "`skiplab measure`: the command and its page",
    "placement": "where norm and activation stand around an addition: the models' option, and the question about it",
    "prune": "`skiplab prune`: the command and its page",
    "registry": "the one list of a package's measures, edits or lint rules",
    "study": "`skiplab study`: the command and its page",
    "summary": "what a result shows, in words",
    "train": "`skiplab train`: the command and its page",
    "unet": "the U-Net: the models, and the question about its long skips",
}


def test_files_of_one_name_share_an_idea() -> None:
    names = Counter(file.stem for file in FILES.values() if file.stem != "__init__")
    assert {name for name, count in names.items() if count > 1} == SHARED_NAMES.keys()


BODY, PARAMETERS = 40, 6

# Functions with more parameters than that, each with the reason.
DECLARATIONS = {
    "cli.prune.prune": "a command's signature is its options",
    "cli.study.run_question": "a command's signature is its options",
    "cli.study_compare.compare": "a command's signature is its options",
    "cli.train.train": "a command's signature is its options",
    "study.comparison.compare": "a public function with keyword options",
    "training.fit.fit": "a public function with keyword options",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(name: str) -> Iterator[Function]:
    tree = ast.parse(FILES[name].read_text())
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def body_lines(function: Function) -> int:
    """Lines from the first statement after the docstring to the last; none for a docstring alone."""
    statements = function.body[ast.get_docstring(function) is not None :]
    return (statements[-1].end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def parameters(function: Function) -> int:
    """Without `self` and `cls`; `*args` and `**kwargs` do not count."""
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


@pytest.mark.parametrize("name", sorted(FILES))
def test_functions_are_short(name: str) -> None:
    assert [function.name for function in functions(name) if body_lines(function) > BODY] == []


def test_functions_take_few_parameters() -> None:
    many = {f"{name}.{each.name}" for name in FILES for each in functions(name) if parameters(each) > PARAMETERS}
    assert many == DECLARATIONS.keys()


def test_the_measures_of_a_function() -> None:
    (function,) = ast.parse("def f(self, a, /, b, *c, d=1, **e):\n    '''Two\n    lines.'''\n    a()\n\n    b()\n").body
    assert isinstance(function, ast.FunctionDef)
    assert (body_lines(function), parameters(function)) == (3, 3)
