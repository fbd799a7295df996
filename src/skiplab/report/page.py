"""One self-contained HTML page: text, tables and charts, with everything it needs inside."""

import functools
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import vl_convert
from markdown_it import MarkdownIt

from skiplab.report.json_data import number
from skiplab.report.theme import AnyChart

_STYLE = """
:root { --ink: #24292f; --muted: #57606a; --line: #d0d7de; --wash: #f6f8fa; }
body { margin: 0; background: white; color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 6px; }
h2 { font-size: 19px; margin: 44px 0 6px; padding-top: 14px; border-top: 1px solid var(--line); }
p { max-width: 78ch; margin: 6px 0; }
.lead, .how, footer { color: var(--muted); }
.verdicts { margin: 20px 0; padding: 14px 18px 14px 36px; background: var(--wash); border-radius: 8px; }
.verdicts li { margin: 5px 0; max-width: 88ch; }
.chart { margin: 14px 0; overflow-x: auto; }
.scroll { overflow-x: auto; max-height: 460px; overflow-y: auto; margin: 14px 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: white; text-align: left; font-weight: 600; white-space: nowrap; }
th, td { padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number { text-align: right; }
summary { cursor: pointer; color: var(--muted); }
pre { background: var(--wash); padding: 12px; border-radius: 6px; overflow-x: auto; font-size: 12.5px; }
.vega-bind { font: 13px system-ui, sans-serif; margin: 0 0 8px; }
.vega-bind select { font: inherit; padding: 2px 6px; }
"""


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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
    verdicts: Sequence[str]
    sections: Sequence[Section]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def html(self) -> str:
        """The page; it asks nothing of the network."""
        specs: list[dict[str, Any]] = []
        body = "\n".join(_section(section, specs) for section in self.sections)
        facts = html.escape(json.dumps(dict(self.facts), indent=2, ensure_ascii=False))
        return _PAGE.format(
            title=html.escape(self.title),
            lead=html.escape(self.lead),
            verdicts=_verdicts(self.verdicts),
            body=body,
            facts=facts,
            style=_STYLE,
            library=_library() if specs else "",
            # No tag or comment inside the data must end the script.
            specs=json.dumps(specs, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"),
        )

    def charts(self) -> dict[str, AnyChart]:
        """Every chart of the page by its name."""
        return {s.name: s.content for s in self.sections if not isinstance(s.content, pd.DataFrame | str)}


def png(chart: AnyChart) -> bytes:
    """The chart as PNG, at twice the screen's resolution, rendered offline."""
    return vl_convert.vegalite_to_png(chart.to_dict(), scale=2)


def svg(chart: AnyChart) -> str:
    """The chart as SVG, rendered offline."""
    return vl_convert.vegalite_to_svg(chart.to_dict())


@functools.cache  # it is bundled anew each time, which takes longer than all else on a page
def _library() -> str:
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _verdicts(verdicts: Sequence[str]) -> str:
    escaped = (re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(verdict)) for verdict in verdicts)
    items = "\n".join(f"<li>{verdict}</li>" for verdict in escaped)
    return f'<ul class="verdicts">\n{items}\n</ul>' if items else ""


def _section(section: Section, specs: list[dict[str, Any]]) -> str:
    if isinstance(section.content, str):
        content = MarkdownIt("commonmark", {"html": False}).render(section.content)
    elif isinstance(section.content, pd.DataFrame):
        content = f'<div class="scroll">{_table(section.content)}</div>'
    else:
        content = f'<div class="chart"><div id="chart{len(specs)}"></div></div>'
        specs.append(section.content.to_dict())
    if section.folded:
        content = f"<details><summary>show</summary>{content}</details>"
    how = f'<p class="how">{html.escape(section.how)}</p>' if section.how else ""
    return f"<section><h2>{html.escape(section.heading)}</h2>{how}{content}</section>"


def _table(frame: pd.DataFrame) -> str:
    head = "".join(f"<th>{html.escape(str(column))}</th>" for column in frame.columns)
    rows = ("".join(_cell(value) for value in row) for row in frame.itertuples(index=False, name=None))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return f"<td>{html.escape(value)}</td>"
    return f'<td class="number">{html.escape(number(value, missing="–"))}</td>'


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="lead">{lead}</p>
{verdicts}
{body}
<footer>
<h2>How this was made</h2>
<pre>{facts}</pre>
</footer>
</main>
<script>{library}</script>
<script>
const options = {{actions: {{export: true, source: false, compiled: false, editor: false}}, renderer: "svg"}};
{specs}.forEach((spec, i) => window.vegaEmbed("#chart" + i, spec, options).catch(console.error));
</script>
</body>
</html>
"""
