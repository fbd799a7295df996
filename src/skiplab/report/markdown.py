"""A page as Markdown, for documents that are read where no script runs: charts lie beside it as SVG."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from skiplab.report.json_data import number
from skiplab.report.page import Page, Section

MOST_ROWS = 60  # of a table that people read; longer ones are in the data


def markdown(page: Page, folder: str) -> str:
    """The page's text; its charts are expected as `folder/NAME.svg`."""
    parts = [f"# {page.title}"]
    if page.verdicts:
        parts.append("\n".join(f"- {verdict}" for verdict in page.verdicts))
    parts += [text for section in page.sections if (text := _section(section, folder))]
    parts += ["## How this was made", _facts(page.facts)]
    return "\n\n".join(parts) + "\n"


def _section(section: Section, folder: str) -> str:
    """A section that is folded on the page is left out, and so is a table that nobody would read to its end."""
    if section.folded or (isinstance(section.content, pd.DataFrame) and len(section.content) > MOST_ROWS):
        return ""
    content = section.content
    if isinstance(content, pd.DataFrame):
        content = _table(content)
    elif not isinstance(content, str):
        content = f"![{section.heading}]({folder}/{section.name}.svg)"
    return "\n\n".join(part for part in (f"## {section.heading}", section.how, content) if part)


def _table(frame: pd.DataFrame) -> str:
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    heads = [str(column).replace("_", " ") for column in frame.columns]
    sides = ["---" if frame[column].dtype.kind not in "iuf" else "--:" for column in frame.columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, sides, *rows))


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else number(value, missing="–")
    return text.replace("|", "\\|").replace("\n", " ")


def _facts(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {_told(value)}" for name, value in facts.items())


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_told(each)}" for name, each in value.items() if each not in ("", None, (), []))
    if isinstance(value, list | tuple):
        return " / ".join(_told(each) for each in value)
    return str(value)
