"""What makes a run another run: the meaning of the code that its work executes, and nothing else."""

import ast
import importlib
import inspect
import pkgutil
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import CodeType, FrameType, ModuleType

import pytest

import skiplab
from skiplab.study import QUESTIONS
from skiplab.study.cache_key import RUNNER, Package, code_hash
from skiplab.study.question import load_study
from skiplab.study.run_cell import run_and_save

ROOT = Path(skiplab.__file__).parent
WORKS = {**{name: f"skiplab.study.questions.{name}" for name in QUESTIONS}, "compare": "skiplab.study.comparison"}

SOURCE = {
    "__init__.py": """
        from typing import TYPE_CHECKING

        if TYPE_CHECKING:
            from lab.loss import error as measured, loss

        def __getattr__(name): ...
    """,
    "study.py": """
        import lab
        from torch import nn
        from lab import tables, tools
        from lab.block import Block, Options
        from lab.registry import KINDS as kinds

        def work(settings, folder, report, *, width=8):
            '''Trains.'''
            from lab.late import finish
            report(0.1, "training")
            net = Block(width, scale=2.0)
            rows = [kind(net) for kind in kinds.values()]
            lab.loss(net, tools.rate)
            return finish(nn.functional.relu(net.forward(rows)), getattr(tables, settings["table"]))

        def verdict(rows):
            return len(rows) > 1
    """,
    "block.py": """
        import functools
        from dataclasses import dataclass
        from typing import ClassVar
        from lab.failure import FailureError

        FACTOR: float = 0.5

        @dataclass(frozen=True)
        class Options:
            width: int = 4

        class Block:
            'One block.'

            rate = 3
            lesion: int

            def __init__(self, width: int, scale=1.0):
                if width < 1:
                    raise FailureError(f"width {width}: give at least 1")
                assert width < 100, "a negative width"
                self.width = width

            @functools.cache
            def forward(self, x):
                return x * FACTOR  # half

            def unused(self, x):
                error = FailureError(f"{x} is lost")
                return twice(1)

        def twice(x):
            return twice(x - 1) + thrice(x) if x else 2

        def thrice(x):
            return twice(x) + 3

        def other(x):
            return x  # other
        def lesion(x): return 0
    """,
    "failure.py": "class FailureError(Exception): pass",
    "registry.py": """
        from lab.kinds import first

        KINDS = {"first": first}
        for name, kind in [("second", lambda x: x + 1)]:
            KINDS[name] = kind
        EMPTY = {}
    """,
    "kinds.py": """
        def first(x): return _base(x) + 1
        def _base(x, power=2): return x ** power
        def lesion(x): return 0
    """,
    "late.py": """
        import warnings

        def finish(x, table):
            warnings.warn("it is late", stacklevel=2)
            global count
            count = 1
            try:
                from lab.loss import error as measured
            except ImportError:
                measured = None
            measured(x)
            def stop(step=step): return step
            fast([lesion for lesion in x], table, (lambda lesion: lesion)(1))
            return [parts for parts in parts], stop

        try:
            from ninja import fast
        except ImportError:
            fast = None
        parts = [1]
        count = 0
        def step(): return step
        def lesion(x): return 0
    """,
    "tables.py": "import os\ndef small(): return 1\ndef large(): return 2",
    "tools.py": "rate = 0.1\ndef sharpen(x): return x",
    "loss.py": "def loss(net, rate): return rate\ndef error(net): return net",
}


def package(folder: Path, sources: dict[str, str]) -> Package:
    """The sources as the package `lab`."""
    for name, text in sources.items():
        path = folder / "lab" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(line.removeprefix(" " * 8) for line in text.splitlines()), encoding="utf-8")
    return Package(folder / "lab")


def edited(*edits: tuple[str, str, str]) -> dict[str, str]:
    """The sources with each (file, old, new) replaced; the file "*" is all of them."""
    sources = dict(SOURCE)
    for file, old, new in edits:
        assert any(old in text for name, text in sources.items() if file in (name, "*")), f"{file} has no {old}"
        sources = {name: text.replace(old, new) if file in (name, "*") else text for name, text in sources.items()}
    return sources


def code(folder: Path, sources: dict[str, str], module: str = "lab.study") -> list[str]:
    return list(package(folder, sources).reached(module, "work").values())


def test_what_is_reached(tmp_path: Path) -> None:
    found = package(tmp_path, SOURCE).reached("lab.study", "work")
    assert {f"{module.removeprefix('lab.')}.{name}" for module, name in found} == {
        "study.work",
        "block.Block",
        "block.FACTOR",
        "block.twice",
        "block.thrice",
        "failure.FailureError",
        "registry.KINDS",
        "registry.name",  # the loop that fills the table defines them
        "registry.kind",
        "kinds.first",
        "kinds._base",
        "loss.loss",
        "loss.error",
        "tools.rate",
        "late.finish",
        "late.count",
        "late.fast",
        "late.parts",
        "late.step",
        "tables.",  # whole, since it is used as a value
        "tables.small",
        "tables.large",
    }


SAME = {
    "a docstring": [("study.py", "Trains.", "Another sentence.")],
    "no docstring": [("block.py", "'One block.'", "")],
    "a comment": [("block.py", "  # half", "")],
    "annotations of parameters": [("block.py", "width: int, scale=1.0", "width: float, scale: float = 1.0")],
    "an annotated attribute": [("block.py", "lesion: int", "lesion: float")],
    "an annotated attribute of an instance": [("block.py", "self.width = width", "self.width: int = width")],
    "an annotated constant": [("block.py", "FACTOR: float = 0.5", "FACTOR = 0.5")],
    "an annotated result": [("block.py", "(self, x):", "(self, x) -> int:")],
    "the message of an error": [("block.py", 'f"width {width}: give at least 1"', '"no" f"{width - 1}"')],
    "the message of an assertion": [("block.py", '"a negative width"', 'f"negative: {width}"')],
    "an error that is made before it is raised": [("block.py", 'f"{x} is lost"', '"lost"')],
    "a warning": [("late.py", "it is late", "it is very late")],
    "a line of progress": [("study.py", '"training"', '"now it trains"')],
    "a class that is not reached": [
        ("block.py", "class Options", "class Settings"),
        ("study.py", "Options", "Settings"),
    ],
    "a function that is not reached": [("block.py", "return x  # other", "return x + 1")],
    "what comes after the run": [("study.py", "len(rows) > 1", "len(rows) > 2")],
    "a name that is a field": [("block.py", "def lesion(x): return 0", "def lesion(x): return 1")],
    "a name that is a local variable": [("late.py", "def lesion(x): return 0", "def lesion(x): return 1")],
    "a neighbor of an attribute of a module": [("tools.py", "return x", "return -x")],
    "a neighbor of a table": [("registry.py", "EMPTY = {}", "EMPTY = {1: 2}")],
    "the name of a function": [("*", "_base", "_power")],
    "the name of a recursive function": [("*", "twice", "double")],
    "the name of a constant": [("*", "FACTOR", "HALF")],
    "the name of a table": [("*", "KINDS", "REGISTRY")],
    "import as": [("study.py", "import Block,", "import Block as B,"), ("study.py", "= Block(", "= B(")],
    "import of a name": [
        ("study.py", "from torch import nn", "from torch.nn import functional as F"),
        ("study.py", "nn.functional.relu", "F.relu"),
    ],
    "a relative import": [("study.py", "from lab import tables, tools", "from . import tools, tables")],
    "from the package": [
        ("study.py", "import lab\n", "from lab import loss as lost\n"),
        ("study.py", "lab.loss", "lost"),
    ],
    "a later import": [("study.py", "import lab\n", "\n"), ("study.py", "report(", "import lab; report(")],
}
OTHER = {
    "a formula": [("block.py", "x * FACTOR", "x + FACTOR")],
    "a constant": [("block.py", "0.5", "0.6")],
    "a default": [("block.py", "scale=1.0", "scale=1.1")],
    "a keyword's default": [("study.py", "width=8", "width=16")],
    "a decorator": [("block.py", "@functools.cache", "")],
    "another decorator": [("block.py", "@functools.cache", "@property")],
    "a condition": [("block.py", "width < 1", "width < 2")],
    "an unused method of a class": [("block.py", "return twice(1)", "return twice(2)")],
    "a method's name": [("block.py", "def unused", "def useless")],
    "an attribute's name": [("block.py", "rate = 3", "ratio = 3")],
    "a field's name": [("block.py", "lesion: int", "ablation: int")],
    "a field that becomes none": [("block.py", "lesion: int", "lesion: ClassVar[int]")],
    "a base class": [("failure.py", "Exception", "ValueError")],
    "a class's name": [("*", "Block", "Unit")],
    "an error of another class": [("block.py", 'FailureError(f"width', 'ValueError(f"width')],
    "a function in a cycle": [("block.py", "+ 3", "+ 4")],
    "which function of a cycle is called": [("block.py", "return twice(1)", "return thrice(1)")],
    "a table's key": [("registry.py", '"first"', '"last"')],
    "a table's function": [("kinds.py", "power=2", "power=3")],
    "what fills a table": [("registry.py", "x + 1", "x + 2")],
    "a change of a table": [("registry.py", "EMPTY = {}", "KINDS.pop('first')")],
    "an attribute of a module": [("tools.py", "0.1", "0.2")],
    "a module used as a value": [("tables.py", "return 2", "return 3")],
    "a name in a module used as a value": [("tables.py", "large", "big")],
    "a global variable": [("late.py", "count = 0", "count = 2")],
    "what another package provides": [("study.py", "nn.functional.relu", "nn.functional.gelu")],
    "where a name comes from": [("study.py", "from torch import nn", "from jax import nn")],
    "a default named as its parameter": [("late.py", "return step", "return -step")],
    "a comprehension over what its variable is called": [("late.py", "parts = [1]", "parts = [2]")],
    "an optional import in a function": [("loss.py", "return net", "return -net")],
    "an optional import": [("late.py", "from ninja", "from samurai")],
    "what is there without an optional import": [("late.py", "fast = None", "fast = 1")],
}


@pytest.mark.parametrize("edits", SAME.values(), ids=SAME.keys())
def test_what_makes_no_other_run(tmp_path: Path, edits: list[tuple[str, str, str]]) -> None:
    assert code(tmp_path / "new", edited(*edits)) == code(tmp_path, SOURCE)


@pytest.mark.parametrize("edits", OTHER.values(), ids=OTHER.keys())
def test_what_makes_another_run(tmp_path: Path, edits: list[tuple[str, str, str]]) -> None:
    assert code(tmp_path / "new", edited(*edits)) != code(tmp_path, SOURCE)


def test_a_module_that_is_moved(tmp_path: Path) -> None:
    sources = edited(("*", "lab.kinds", "lab.rooms.sorts"))
    sources["rooms/sorts.py"], sources["rooms/question.py"] = sources.pop("kinds.py"), sources.pop("study.py")
    assert code(tmp_path / "new", sources, "lab.rooms.question") == code(tmp_path, SOURCE)


def test_definitions_that_are_moved_to_another_file(tmp_path: Path) -> None:
    start, end = SOURCE["block.py"].index("        def twice"), SOURCE["block.py"].index("        def other")
    functions = SOURCE["block.py"][start:end]
    sources = {**SOURCE, "block.py": SOURCE["block.py"].replace(functions, ""), "sums.py": functions}
    sources["block.py"] = sources["block.py"].replace(
        "import functools", "import functools; from lab.sums import twice"
    )
    assert code(tmp_path / "new", sources) == code(tmp_path, SOURCE)


@pytest.mark.parametrize("mention", ["lab.kinds.first", "kinds.first", "first", "later"])
def test_a_name_behind_a_star_import(tmp_path: Path, mention: str) -> None:
    sources = {
        "study.py": f"""
        import lab
        from lab import kinds
        from lab.kinds import first
        from lab.kinds import first as later

        def work(settings): return {mention}(settings)
        """,
        "kinds.py": "from lab.near import *",
        "near.py": "from lab.home import first as first",
        "home.py": "def first(x): return x + 1",
        "__init__.py": "",
    }
    moved = {**sources, "kinds.py": "from lab.home import first"}
    other = {**sources, "home.py": "def first(x): return x + 2"}
    before, same, changed = (code(tmp_path / str(n), each) for n, each in enumerate((sources, moved, other)))
    assert before == same != changed


def test_a_name_that_only_getattr_knows_counts_the_whole_module(tmp_path: Path) -> None:
    sources = edited(("study.py", "lab.loss(", "lab.computed("))
    found = package(tmp_path, sources).reached("lab.study", "work")
    assert {("lab", ""), ("lab", "__getattr__")} <= found.keys()


def skiplab_copy(folder: Path, rewrite: Callable[[ast.Module, Path], ast.AST] | None = None) -> Package:
    """The package's sources in another folder, each rewritten."""
    for path in ROOT.rglob("*.py"):
        copy = folder / "skiplab" / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        if rewrite:
            copy.write_text(ast.unparse(rewrite(ast.parse(path.read_text("utf-8")), path)), encoding="utf-8")
    return Package(folder / "skiplab")


def codes(package: Package, place: Callable[[str], str] = str, studies: Iterable[str] = WORKS) -> dict[str, list[str]]:
    return {study: list(package.reached(place(WORKS[study]), "work").values()) for study in studies}


@pytest.fixture(scope="module")
def current() -> Package:
    return Package(ROOT)


@pytest.fixture(scope="module")
def now(current: Package) -> dict[str, list[str]]:
    return codes(current)


class Reworded(ast.NodeTransformer):
    """Other docstrings, messages and annotations, and (by `ast.unparse`) no comments."""

    def visit(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        call = node.func if isinstance(node, ast.Call) else None
        name = call.id if isinstance(call, ast.Name) else call.attr if isinstance(call, ast.Attribute) else ""
        if isinstance(node, ast.Raise) or name.endswith(("Error", "Warning")) or name in ("warn", "report"):
            for text in ast.walk(node):
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    text.value += " reworded"
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
            stated = ast.get_docstring(node) is not None
            node.body[: 1 if stated else 0] = [ast.Expr(ast.Constant("Other words."))]
        if isinstance(node, ast.FunctionDef):
            node.returns = ast.Constant("Another")
            for argument in (*node.args.args, *node.args.kwonlyargs):
                argument.annotation = ast.Constant("Another")
        if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
            node.annotation = ast.Constant("Another")
        return ast.fix_missing_locations(node)


def test_other_words_in_every_file_change_no_study(tmp_path: Path, now: dict[str, list[str]]) -> None:
    assert codes(skiplab_copy(tmp_path, lambda tree, _path: Reworded().visit(tree))) == now


class Moved(ast.NodeTransformer):
    """Imports of modules whose names, and whose folders' names, all have another beginning."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if node.module and node.module.split(".")[0] == "skiplab":
            home = importlib.import_module(node.module)
            for alias in (each for each in node.names if each.name != "*"):
                value = getattr(home, alias.name, None) or importlib.import_module(f"{node.module}.{alias.name}")
                if isinstance(value, ModuleType) and value.__name__.startswith("skiplab."):
                    alias.asname, alias.name = alias.asname or alias.name, f"moved_{alias.name}"
            node.module = moved(node.module)
        return node


def moved(module: str) -> str:
    return module.replace(".", ".moved_")


def test_moving_every_module_changes_no_study(tmp_path: Path, now: dict[str, list[str]]) -> None:
    skiplab_copy(tmp_path, lambda tree, _path: Moved().visit(tree))
    for path in sorted((tmp_path / "skiplab").rglob("*"), reverse=True):  # the files of a folder before the folder
        if path.name != "__init__.py":
            path.rename(path.with_name(f"moved_{path.name}"))
    assert codes(Package(tmp_path / "skiplab"), moved) == now


@pytest.mark.parametrize(
    ("file", "old", "new", "studies", "others"),
    [
        ("models/skip.py", "torch.add", "torch.sub", {"depth", "shortcuts"}, set()),
        ("training/loop.py", "READ_EVERY = 32", "READ_EVERY = 16", {"norm", "compare"}, {"gradient"}),
        ("measure/lesions/runner.py", "pd.concat", "pd.merge", {"depth"}, {"shortcuts", "gradient"}),
        ("study/sentences.py", "100", "101", set(), {"depth", "unet"}),
    ],
)
def test_another_formula_in_one_file(
    tmp_path: Path, now: dict[str, list[str]], file: str, old: str, new: str, studies: set[str], others: set[str]
) -> None:
    path = skiplab_copy(tmp_path).root / file
    assert old in path.read_text("utf-8")
    path.write_text(path.read_text("utf-8").replace(old, new), encoding="utf-8")
    found = codes(Package(tmp_path / "skiplab"), studies=studies | others)
    assert {study for study, code in found.items() if code != now[study]} == studies


def calls(function: Callable[[], object]) -> set[CodeType]:
    """The package's functions that a call executes."""
    seen: set[CodeType] = set()

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(ROOT)):
            seen.add(frame.f_code)

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return seen


def definitions(package: Package, code: CodeType) -> set[tuple[str, str]]:
    """Those in whose lines a function lies."""
    parts = Path(code.co_filename).relative_to(ROOT.parent).with_suffix("").parts
    name = ".".join(parts).removesuffix(".__init__")
    module = package.module(name)
    assert module
    found = set()
    for each, statements in module.statements.items():
        for statement in statements:
            first = min(node.lineno for node in (statement, *getattr(statement, "decorator_list", ())))
            if first <= code.co_firstlineno <= (statement.end_lineno or 0):
                found.add((name, each))
    return found


@pytest.mark.parametrize("study", ["norm", "shortcuts", "gradient"])
def test_every_function_that_a_run_calls_is_reached(study: str, tmp_path: Path, current: Package) -> None:
    """The oracle is a run under Python's profiler."""
    for module in pkgutil.walk_packages([str(ROOT)], "skiplab."):
        if not module.name.endswith("__main__"):  # else what an import calls would count as called by the run
            importlib.import_module(module.name)
    grid = load_study(study).grids["quick"]
    axes = {name: values[:1] for name, values in grid.axes.items()}
    recipe = replace(grid.recipe, epochs=1, warmup_epochs=0.0)
    cell = load_study(study).cells(replace(grid, axes=axes, recipe=recipe, seeds=1, device="cpu"))[-1]
    work = load_study(study).work
    called = calls(lambda: run_and_save(work, cell.config, tmp_path, lambda _share, _text: None))
    reached = current.reached(WORKS[study], "work").keys() | current.reached(*RUNNER).keys()
    assert len(called) > 100
    assert not [code for code in called if not definitions(current, code) & reached]


def test_no_question_loads_modules_by_a_computed_name(now: dict[str, list[str]]) -> None:
    assert not [study for study in QUESTIONS if "importlib" in " ".join(now[study])]


def test_comparisons_take_models_by_name(current: Package) -> None:
    """They load the user's modules besides, which `skiplab.study.compare` identifies by what it captures of them."""
    reached = current.reached(WORKS["compare"], "work")
    assert {("skiplab.models", ""), ("skiplab.models.unet", "unet")} <= reached.keys()


def test_no_module_changes_what_another_one_defines(current: Package) -> None:
    """Such a change would not count as part of that definition: define the whole table where its name is."""
    modules = {module for work in WORKS.values() for module, _ in current.reached(work, "work")}
    for name in sorted(modules):
        tree = ast.parse(inspect.getsource(importlib.import_module(name)))
        at_import = [
            node for node in tree.body if isinstance(node, (ast.Expr, ast.AugAssign, ast.For, ast.While, ast.With))
        ]
        decorators = [each for node in tree.body for each in getattr(node, "decorator_list", ())]
        module = current.module(name)
        assert module
        for node in (each for start in (*at_import, *decorators) for each in ast.walk(start)):
            if isinstance(node, ast.Name) and node.id in module.imports:
                found = current.resolve(module.imports[node.id])
                assert isinstance(found[0], str), f"{name}: {node.id} at the top level"


def test_torch_is_part_of_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_hash.__wrapped__("shortcuts")
    monkeypatch.setattr("torch.__version__", "0.0")
    assert code_hash.__wrapped__("shortcuts") != before


def test_a_study_without_a_file_is_a_comparison() -> None:
    assert code_hash("compare") == code_hash(None) != code_hash("depth")
