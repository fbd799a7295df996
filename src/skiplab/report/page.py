"""A self-contained HTML page with text, tables and charts."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
import vl_convert
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from skiplab.report.json_data import number
from skiplab.report.templating import TEMPLATES
from skiplab.report.theme import AnyChart


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of a page.

    Attributes:
        heading: its title.
        how: what the content shows and how to read it.
        content: a chart, a table, or text in Markdown.
        name: of the chart's files when charts are exported.
        folded: hidden until unfolded.
    """

    heading: str
    how: str
    content: AnyChart | pd.DataFrame | str
    name: str = ""
    folded: bool = False

    @property
    def kind(self) -> Literal["text", "table", "chart"]:
        """The kind of the content."""
        if isinstance(self.content, str):
            return "text"
        return "table" if isinstance(self.content, pd.DataFrame) else "chart"


@dataclass(frozen=True, kw_only=True)
class Page:
    """The content of a page, before it is HTML or Markdown; its charts can be exported one by one.

    Attributes:
        title: the question, or the model's name.
        lead: a sentence under the title.
        sentences: the answers, computed from the numbers.
        sections: charts and tables.
        facts: configuration, seeds and versions, for the footer.
    """

    title: str
    lead: str
    sentences: Sequence[str]
    sections: Sequence[Section]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def html(self) -> str:
        """The page as HTML; it loads nothing from the internet."""
        specs = [chart.to_dict() for _, chart in self._charts()]
        return TEMPLATES.get_template("page.html.j2").render(
            page=self,
            facts=json.dumps(dict(self.facts), indent=2, ensure_ascii=False),
            library=_library() if specs else "",
            specs=specs,
            markdown=_markdown,
            number=functools.partial(number, missing="–"),
            code_spans=_code_spans,
        )

    def charts(self) -> dict[str, AnyChart]:
        """All charts of the page by their names."""
        return dict(self._charts())

    def _charts(self) -> list[tuple[str, AnyChart]]:
        return [(s.name, s.content) for s in self.sections if not isinstance(s.content, pd.DataFrame | str)]


def png(chart: AnyChart) -> bytes:
    """The chart as PNG, at twice the screen's resolution, rendered offline."""
    return vl_convert.vegalite_to_png(chart.to_dict(), scale=2)


def svg(chart: AnyChart) -> str:
    """The chart as SVG, rendered offline."""
    return vl_convert.vegalite_to_svg(chart.to_dict())


@functools.cache  # bundling the library takes longer than the rest of a page
def _library() -> Markup:
    return Markup(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _markdown(text: str) -> Markup:
    return Markup(MarkdownIt("commonmark", {"html": False}).render(text))


def _code_spans(text: str) -> Markup:
    """The text as HTML, with backticked parts as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))
