"""A page as Markdown: what is in it, what is left out, and what would break its tables."""

import pkgutil

import altair as alt
import pandas as pd

from skiplab import report
from skiplab.report import Page, Section, markdown

TEXT = """\
# Does <it> train?

- plain is worse & `deeper`
- so there

## Text

As **it** was.

## Table

How to read it.

| name | test error | seeds |
| --- | --: | --: |
| a\\|b c | 0.1235 | 1,000 |
| d | – | 2 |

## Chart

![Chart](figures/curve.svg)

## How this was made

- seeds: 0 / 1
- versions: torch 2
"""


def test_the_text_of_a_page() -> None:
    table = pd.DataFrame({"name": ["a|b\nc", "d"], "test_error": [0.12345, float("nan")], "seeds": [1000, 2]})
    sections = [
        Section(heading="Text", how="", content="As **it** was."),
        Section(heading="Folded", how="Left out.", content="text", folded=True),
        Section(heading="Table", how="How to read it.", content=table),
        Section(heading="Long", how="Left out.", content=pd.DataFrame({"row": range(61)})),
        Section(heading="Chart", how="", content=alt.Chart(table).mark_point(), name="curve"),
    ]
    sentences = ("plain is worse & `deeper`", "so there")
    facts = {"seeds": [0, 1], "versions": {"torch": 2, "none": None}}
    page = Page(title="Does <it> train?", lead="lead", sentences=sentences, sections=sections, facts=facts)
    assert markdown(page, "figures") == TEXT
    nothing = Page(title="Nothing", lead="lead", sentences=(), sections=())
    assert markdown(nothing, "figures").split() == "# Nothing ## How this was made".split()


def test_no_module_hides_a_function_of_the_same_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules(report.__path__)}
    assert not modules & set(report.__all__)
