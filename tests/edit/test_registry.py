"""The list of edits: one line and one file make an edit; listing them imports none; its commands fit its functions."""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from package_copy import PackageCopy
from skiplab import edit
from skiplab.cli.docstrings import argument_helps
from skiplab.cli.edit import option_names
from skiplab.edit.catalog import edit_summaries, load_edit

TOY = '''
"""An edit for a test."""

from skiplab.analysis.skips import Skips
from skiplab.edit.scaling import scale
from skiplab.graph.program import Program


def toy(program: Program, skips: Skips, factor: float = 3.0) -> Program:
    """Multiplies each branch [by a factor].

    Args:
        program: the network.
        skips: the skips to edit.
        factor: what branches are multiplied by.
    """
    return scale(program, skips, branch=factor)
'''


def test_one_file_and_one_line_make_an_edit(tmp_path: Path) -> None:
    package = PackageCopy.make(tmp_path)
    package.add_file("edit/toy_edit.py", TOY)
    line = "from skiplab.edit.toy_edit import toy as toy"
    package.add_line("edit/registry.py", after="from skiplab.edit.scaling import scale as scale", line=line)
    listed = package.run("edit", "--help")
    assert "Multiplies each branch [by a factor]." in listed.stdout, listed.stderr
    helped = package.run("edit", "toy", "--help")
    assert "--factor" in helped.stdout, helped.stderr
    assert "What branches are multiplied by. [default: 3.0]" in " ".join(helped.stdout.replace("│", " ").split())
    done = package.run("edit", "toy", "resnet20", "--factor", "2", "--skips", "layer1.*", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["edit"], found["options"]) == ("toy", {"factor": 2.0})
    assert found["edited"] == ["layer1.0", "layer1.1", "layer1.2"]
    assert found["difference"] > 0


def test_listing_the_edits_imports_none_of_them() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from skiplab import cli, edit\n"
        "done = CliRunner().invoke(cli.app, ['edit', '--help']); dir(edit)\n"
        "print('rezero' in done.stdout, [name for name in ('torch', 'pandas', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"


def test_names_are_those_of_functions() -> None:
    for name in edit_summaries():
        assert inspect.isfunction(getattr(edit, name))
        assert getattr(edit, name) is load_edit(name)
    assert {*edit_summaries(), "Place", "place", "places", "summarize", "EditSummary"} == {*dir(edit)}
    with pytest.raises(AttributeError, match=r"module 'skiplab.edit' has no attribute 'nothing'"):
        _ = edit.nothing  # type: ignore[attr-defined]


def test_no_file_has_the_name_of_an_edit() -> None:
    """Loading `skiplab.edit.x` puts the module where a function `x` would be."""
    files = {file.stem for file in Path(str(edit.__file__)).parent.glob("*.py")}
    assert files.isdisjoint(dir(edit))


@pytest.mark.parametrize("name", edit_summaries())
def test_every_option_has_a_help_text_and_a_summary_of_one_line(name: str) -> None:
    function: Callable[..., Any] = load_edit(name)
    assert {*option_names(function)} <= argument_helps(function).keys()
    assert edit_summaries()[name].endswith(".")
    assert (inspect.getdoc(function) or "").splitlines()[1:2] in ([], [""])


def test_help_texts_are_those_of_the_docstring() -> None:
    def function() -> None:
        """Does.

        Args:
            one, two: both
                of them: yes.
            three: another.

        Raises:
            ValueError: never.
        """

    assert argument_helps(function) == {"one": "Both of them: yes.", "two": "Both of them: yes.", "three": "Another."}
