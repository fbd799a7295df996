"""What makes a run another run: the code that its work reaches, and no other."""

import ast
import subprocess
import sys

import pytest

from skiplab.study.cache_key import PACKAGE, _names, modules, reached

QUESTION = """
from skiplab.data import digits
from skiplab.study.verdicts import percent
from skiplab.study.question import Settings

WIDTH = 8
LIMIT = 0.1
def build(settings: Settings): return settings, WIDTH
def work(settings, folder, report): digits(), build(settings)
def verdicts(tables): return percent(LIMIT)
"""


def test_what_work_reaches_and_what_comes_after_it() -> None:
    own = [ast.unparse(statement).split("\n")[0] for statement in reached(ast.parse(QUESTION), "work")]
    assert own == [
        "from skiplab.data import digits",
        "WIDTH = 8",
        "def build(settings: Settings):",
        "def work(settings, folder, report):",
    ]


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("A, *B = C", ["A", "B"]),
        ("A: dict[str, int] = {x: y for x, y in C}", ["A"]),
        ("A = tuple(f(x) for x in C)", ["A"]),  # a loop's variable is nobody else's: `work` may have one called so
        ("def a(b): c = b", ["a"]),
        ("from a import b as c", ["c"]),
    ],
)
def test_what_a_statement_of_a_question_defines(statement: str, names: list[str]) -> None:
    assert _names(ast.parse(statement).body[0]) == names


def test_every_module_that_is_loaded_counts() -> None:
    """The oracle is Python's own import, which runs the first files of folders on the way besides."""
    code = "import sys, skiplab.study.examine; print(*(n for n in sys.modules if n.split('.')[0] == 'skiplab'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    paths = [PACKAGE.joinpath(*name.split(".")[1:]) for name in done.stdout.split()]
    files = {path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for path in paths}
    found = modules(ast.parse("from skiplab.study.examine import train").body)
    assert files - found == {PACKAGE / "__init__.py", PACKAGE / "study" / "__init__.py"}
    assert not any(path.is_relative_to(PACKAGE / "cli") or path.is_relative_to(PACKAGE / "report") for path in found)
