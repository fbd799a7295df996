"""The house: which package may import which, no cycles among modules, and no two files of one name."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import skiplab

SOURCE = Path(str(skiplab.__file__)).parent

# A package imports from the lines above its own alone.
RANKS = """
errors
validation io graph stats
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
