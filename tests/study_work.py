"""A question for the tests of studies: no network is trained for it, and its numbers are known beforehand."""

from typing import Any

import pandas as pd

from skiplab.report.figure_spec import Axis, Figure
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.run_cell import RunContext

BASE = {"a": 1.0, "b": 3.0}


def value(settings: Settings) -> float:
    return BASE[settings["variant"]] * settings["size"] + settings["seed"]


def work(run: RunContext) -> Tables:
    settings = run.settings
    lost = (settings["variant"], settings["size"], settings["seed"]) == ("b", 10, 2)
    row: dict[str, Any] = {
        "status": "diverged" if lost else "ok",
        "parameters": 100 if settings["variant"] == "a" else 110,
    }
    row["score"] = float("nan") if lost else value(settings)
    return {
        "runs": pd.DataFrame([row]),
        "steps": pd.DataFrame({"x": [1, 2], "y": [2.0 ** settings["seed"], 4.0 ** settings["seed"]]}),
        "shape": pd.DataFrame({"layers": [settings["size"]]}),
    }


def sentences(tables: Tables) -> list[str]:
    return [f"{len(tables['runs'])} runs."]


STUDY = Study(
    name="sizes",
    variants=("a", "b"),
    grids={"default": Grid(axes={"size": (1, 10)}, seeds=3)},
    work=work,
    sentences=sentences,
    figures=(
        Figure(
            name="by-x",
            heading="By x",
            how="…",
            chart="lines",
            table="steps",
            x=Axis("x", "x"),
            y=(Axis("y", "y", "log"),),
            panel="size",
        ),
        Figure(
            name="scores",
            heading="Scores",
            how="…",
            chart="points",
            table="runs",
            x=Axis("size", "size", "steps"),
            y=(Axis("score", "score"),),
        ),
    ),
    outcomes=(Axis("score", "score"),),
    seed_invariant=("shape",),
    is_valid=lambda settings: settings["size"] != 7,
)
