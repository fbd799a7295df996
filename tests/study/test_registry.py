"""A study is one new file and one new line in the list of questions."""

import json
from pathlib import Path

from package_copy import PackageCopy

QUESTION = "Is b larger than a?"
TOY = f'''"""{QUESTION}

Two constants, measured without training.
"""

from collections.abc import Iterator

import pandas as pd

from skiplab.report.figure_spec import Axis, Figure, points
from skiplab.study.charts import NETWORK
from skiplab.study.question import Grid, Study, Tables
from skiplab.study.run_cell import RunContext

SCORE = Axis("score", "score")
VARIANTS = ("a", "b")
GRIDS = dict.fromkeys(("quick", "default", "full"), Grid(device="cpu"))


def work(run: RunContext) -> Tables:
    score = {{"a": 1.0, "b": 3.0}}[run.settings["variant"]] + run.settings["seed"]
    return {{"runs": pd.DataFrame([{{"status": "ok", "parameters": 1, "score": score}}])}}


def sentences(tables: Tables) -> Iterator[str]:
    means = tables["runs"].groupby("variant")["score"].mean()
    yield f"b is larger than a by {{means['b'] - means['a']:g}}."


FIGURES = (Figure(name="scores", heading="Scores", how="One point per seed.", **points("runs", NETWORK, SCORE)),)

STUDY = Study.from_module(__name__, outcomes=(SCORE,))
'''


def test_a_study_is_one_file_and_one_line(tmp_path: Path) -> None:
    package = PackageCopy.make(tmp_path)
    package.add_file("study/questions/toy.py", TOY)
    package.add_line("study/questions/__init__.py", after="QUESTIONS = {", line=f'"toy": "{QUESTION}",')

    listed = package.run("study", "list")
    assert f"toy: {QUESTION}\n" in listed.stdout, listed.stderr

    done = package.run(
        "study", "toy", "--quick", "--json", "--report", "toy.html", "--runs", str(tmp_path / "runs"), "--workers", "1"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["question"] == QUESTION
    assert result["verdicts"][0] == "b is larger than a by 2."
    assert [row["score"] for row in result["tables"]["runs"]] == [1, 2, 3, 3, 4, 5]
    page = (tmp_path / "toy.html").read_text(encoding="utf-8")
    assert all(text in page for text in (f"<h1>{QUESTION}</h1>", "b is larger than a by 2.", "Two constants", "Scores"))
