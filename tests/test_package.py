"""What the package promises as a whole: cheap to import, its names and its errors."""

import inspect
import subprocess
import sys

import pytest

import skiplab
from skiplab import errors


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
