"""One self-contained HTML page: text, tables and charts, with everything it needs inside."""

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
    """A heading, a sentence on how to read what follows, and what follows.

    Attributes:
        heading: of the section.
        how: what one sees, and how to read it.
        content: a chart, a table, or text in Markdown.
        name: of the chart's files when charts are exported.
        folded: shown only when asked for.
    """

    heading: str
    how: str
    content: AnyChart | pd.DataFrame | str
    name: str = ""
    folded: bool = False

    @property
    def kind(self) -> Literal["text", "table", "chart"]:
        """Of the content."""
        if isinstance(self.content, str):
            return "text"
        return "table" if isinstance(self.content, pd.DataFrame) else "chart"


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page says, before it is HTML; its charts can be exported one by one.

    Attributes:
        title: the question, or the model's name.
        lead: a sentence under the title.
        verdicts: what the numbers say.
        sections: charts and tables.
        facts: configuration, seeds and versions, for the foot.
    """

    title: str
    lead: str
    sentences: Sequence[str]
    sections: Sequence[Section]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def html(self) -> str:
        """The page; it asks nothing of the network."""
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
        """Every chart of the page by its name."""
        return dict(self._charts())

    def _charts(self) -> list[tuple[str, AnyChart]]:
        return [(s.name, s.content) for s in self.sections if not isinstance(s.content, pd.DataFrame | str)]


def png(chart: AnyChart) -> bytes:
    """The chart as PNG, at twice the screen's resolution, rendered offline."""
    return vl_convert.vegalite_to_png(chart.to_dict(), scale=2)


def svg(chart: AnyChart) -> str:
    """The chart as SVG, rendered offline."""
    return vl_convert.vegalite_to_svg(chart.to_dict())


@functools.cache  # it is bundled anew each time, which takes longer than all else on a page
def _library() -> Markup:
    return Markup(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _markdown(text: str) -> Markup:
    return Markup(MarkdownIt("commonmark", {"html": False}).render(text))


def _code_spans(text: str) -> Markup:
    """The text with what stands between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))
