"""What the package promises as a whole: cheap to import, its names, its errors, and who may import whom."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import skiplab
from skiplab import errors

SOURCE = Path(str(skiplab.__file__)).parent

# A module imports from those above its own line alone, or from its own folder.
RANKS = """
errors figure
ops functional files headings options recipe inputs weights mismatch code
data fused arguments checkpoint models anchors network folding
tasks augment precision optimizers
program builders loop
absent
execute train skips parts resolve
merges paths walk scales cells channels
reach edges
nesting apart blocks
finder
export measure outline prover linter differ
edit sources
pruner saved
schema terminal
study
cli
"""
RANK = {name: rank for rank, line in enumerate(RANKS.split("\n")) for name in line.split()}


def imported(file: Path) -> Iterator[str]:
    """The modules and folders of this package that a file imports, wherever in it."""
    known = {path.name.removesuffix(".py") for path in SOURCE.iterdir()}
    package = ("skiplab", *file.relative_to(SOURCE).parent.parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            parts = (*above, *(node.module or "").split(".")) if node.module else above
            names = [parts] if len(parts) > 1 else [(*parts, alias.name) for alias in node.names]
        else:
            names = [tuple(alias.name.split(".")) for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name[1] for name in names if name[0] == "skiplab" and name[1:2] and name[1] in known)


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_go_down_the_ranks(file: Path) -> None:
    name = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    others = set(imported(file)) - {name}
    if name == "report":
        assert others <= {"errors", "files", "figure"}
    elif name == "cli":
        assert others <= RANK.keys() | {"report"}
    elif name != "__init__":
        assert {other for other in others if RANK[other] >= RANK[name]} == set()


def test_importing_it_imports_nothing_that_takes_time() -> None:
    heavy = ("torch", "pandas", "numpy", "altair", "lightning", "sklearn", "scipy", "typer", "rich")
    code = f"import sys, skiplab; dir(skiplab); print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names() -> None:
    assert skiplab.__all__ == [
        "Census",
        "Op",
        "Program",
        "Pruned",
        "Recipe",
        "Run",
        "Skip",
        "Skips",
        "__version__",
        "capture",
        "census",
        "diff",
        "edit",
        "errors",
        "find",
        "fit",
        "lint",
        "measure",
        "models",
        "prove",
        "prune",
        "report",
        "save",
        "study",
    ]
    assert dir(skiplab) == skiplab.__all__
    assert all(getattr(skiplab, name) is not None for name in skiplab.__all__)
    assert skiplab.measure.__all__ == [
        "band",
        "clipping",
        "contribution",
        "cost",
        "estimate",
        "faster",
        "gradient",
        "layers",
        "lengths",
        "lesion",
        "linearity",
        "probe",
        "shattering",
        "similarity",
        "spectrum",
        "together",
    ]


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'skiplab' has no attribute 'nothing'"):
        _ = skiplab.nothing  # type: ignore[attr-defined]


def test_error_tree() -> None:
    def tree(kind: type) -> dict[str, dict]:
        return {f"{each.__name__} {each.exit_code}": tree(each) for each in kind.__subclasses__()}

    assert tree(errors.SkiplabError) == {
        "UsageError 2": {"StaleSkip 2": {}},
        "SelectionError 1": {},
        "ProofError 1": {},
        "ModelError 3": {"CaptureError 3": {}},
        "DataError 4": {"OutputError 4": {}},
        "DivergedError 1": {},
        "WorkerError 1": {},
    }
    defined = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
    assert all(issubclass(each, errors.SkiplabError) and each.__doc__ for each in defined)


def test_every_public_function_and_class_says_what_it_is() -> None:
    for name in skiplab.__all__:
        value = getattr(skiplab, name)
        assert isinstance(value, str) or inspect.getdoc(value), name
