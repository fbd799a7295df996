"""A page as Markdown, for documents that are read where no script runs: charts lie beside it as SVG."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from skiplab.report.json_data import number
from skiplab.report.page import Page, Section
from skiplab.report.templating import TEMPLATES

MAX_ROWS = 60  # of a table that people read; longer ones are in the data


def markdown(page: Page, folder: str) -> str:
    """The page's text; its charts are expected as `folder/NAME.svg`."""
    sections = [section for section in page.sections if _is_shown(section)]
    return TEMPLATES.get_template("page.md.j2").render(
        page=page, sections=sections, folder=folder, cell=_cell, fact=_fact
    )


def _is_shown(section: Section) -> bool:
    """A section that is folded on the page is left out, and so is a table that nobody would read to its end."""
    return not (section.folded or (isinstance(section.content, pd.DataFrame) and len(section.content) > MAX_ROWS))


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else number(value, missing="–")
    return text.replace("|", "\\|").replace("\n", " ")


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(each)}" for name, each in value.items() if each not in ("", None, (), []))
    if isinstance(value, list | tuple):
        return " / ".join(_fact(each) for each in value)
    return str(value)
