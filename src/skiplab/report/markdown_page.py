"""A page as Markdown, with its charts as SVG files, for readers that run no scripts."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from skiplab.report.json_data import number
from skiplab.report.page import Page, Section
from skiplab.report.templating import TEMPLATES

MAX_ROWS = 60  # longer tables are left out of the text


def markdown(page: Page, folder: str) -> str:
    """The page as Markdown; it links to its charts as `folder/NAME.svg`."""
    sections = [section for section in page.sections if _is_shown(section)]
    return TEMPLATES.get_template("page.md.j2").render(
        page=page, sections=sections, folder=folder, cell=_cell, fact=_fact
    )


def _is_shown(section: Section) -> bool:
    """Whether a section is part of the text: folded sections and long tables are not."""
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
