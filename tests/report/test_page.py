"""The page in a real browser: offline, without an error, every chart drawn, and a click that highlights."""

import functools
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Page as Tab

import report_sample
from skiplab.report import model_page, study_page
from skiplab.study.questions.depth import FIGURES

CHROMIUM = os.environ.get("SKIPLAB_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install it, or name it in SKIPLAB_CHROMIUM")


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    return {**browser_type_launch_args, "executable_path": CHROMIUM, "args": ["--no-sandbox", "--disable-gpu", *QUIET]}


class Opened:
    """A page in a tab, with everything that it complained about or asked for."""

    def __init__(self, tab: Tab, html: str, folder: Path) -> None:
        self.tab = tab
        self.complaints: list[str] = []
        self.requests: list[str] = []
        tab.on("console", lambda message: self.complaints.append(message.text))
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("request", lambda request: self.requests.append(request.url))
        file = folder / "page.html"
        file.write_text(html)
        tab.set_viewport_size({"width": 1280, "height": 900})
        tab.goto(file.as_uri())
        charts, drawn = (
            "document.querySelectorAll('.chart').length",
            "document.querySelectorAll('.chart svg.marks').length",
        )
        tab.wait_for_function(f"{charts} === {drawn}")

    def bars(self, what: str, highlighted: bool) -> list[str]:
        """Descriptions of a measure's bars that are fully opaque (or all of them)."""
        found = self.tab.locator("path[aria-roledescription='bar']").evaluate_all(
            "marks => marks.map(m => [m.getAttribute('aria-label'), Number(m.getAttribute('opacity') ?? 1)])"
        )
        # The columns that one points at are bars too, and invisible.
        return [label for label, opacity in found if what in label and (opacity == 1 if highlighted else opacity > 0)]

    def bold_arcs(self) -> int:
        """How many arcs are drawn at the width of a chosen one."""
        return self.tab.locator("path[stroke-width='4']").count()


@functools.cache
def study_html() -> str:
    answer = report_sample.Answer(
        report_sample.study(),
        tuple(FIGURES),
        method="Compared:\n\n- `plain`: no <b>skip</b> & no sum.",
        sentences=("plain is <worse> & deeper", "of `<net>` and `b`"),
    )
    return study_page(answer, {"seeds": [0, 1]}).html()


@pytest.fixture
def study(page: Tab, tmp_path: Path) -> Opened:
    return Opened(page, study_html(), tmp_path)


def test_it_is_offline_and_without_errors(study: Opened) -> None:
    study.tab.wait_for_timeout(300)
    assert study.complaints == []
    assert [url for url in study.requests if not url.startswith(("file:", "data:"))] == []


def test_every_chart_has_marks_and_the_text_is_escaped(study: Opened) -> None:
    counts = study.tab.locator(".chart").evaluate_all("charts => charts.map(c => c.querySelectorAll('path').length)")
    assert len(counts) == 5
    assert min(counts) > 10
    assert "plain is <worse> & deeper" in study.tab.inner_text(".sentences")
    assert study.tab.locator(".sentences li code").all_inner_texts() == ["<net>", "b"]
    assert study.tab.inner_text("section:first-of-type li") == "plain: no <b>skip</b> & no sum."
    assert study.tab.inner_text("section:first-of-type li code") == "plain"


def test_nothing_is_wider_than_the_window(study: Opened) -> None:
    for width in (1280, 1000):
        study.tab.set_viewport_size({"width": width, "height": 900})
        assert study.tab.evaluate("document.documentElement.scrollWidth") <= width


def test_a_click_on_a_skip_highlights_it_in_all_charts(study: Opened) -> None:
    everything = study.bars("skip: ", highlighted=False)
    assert study.bars("skip: ", highlighted=True) == everything
    first = study.tab.locator("path[aria-roledescription='bar'][aria-label*='skip: ']").first
    chosen = (first.get_attribute("aria-label") or "").split("skip: ")[1].split(";")[0]
    first.click(force=True)
    study.tab.wait_for_timeout(200)
    # post- and pre-activation have the skip of that name, each with a lesion, a contribution and a gradient
    lit = study.bars("skip: ", highlighted=True)
    assert len(lit) == 6
    assert {label.split("skip: ")[1].split(";")[0] for label in lit} == {chosen}
    assert study.bold_arcs() == 2


def test_a_click_on_an_arc_does_the_same(study: Opened) -> None:
    """Wide invisible lines are what one points at; the top of one is where one would click."""
    wide = study.tab.locator("path[stroke-width='9']").first
    wide.scroll_into_view_if_needed()
    x, y = wide.evaluate(
        "e => { const p = e.getPointAtLength(e.getTotalLength() / 2), m = e.getScreenCTM();"
        " return [p.x * m.a + m.e, p.y * m.d + m.f]; }"
    )
    study.tab.mouse.click(x, y)
    study.tab.wait_for_timeout(200)
    assert len(study.bars("skip: ", highlighted=True)) == 6
    assert study.bold_arcs() == 2


def test_the_depth_is_chosen_from_a_list(study: Opened) -> None:
    before = len(study.bars("skip: ", highlighted=False))
    lists = study.tab.locator("select")
    for number in range(lists.count()):
        lists.nth(number).select_option("20")
    study.tab.wait_for_timeout(300)
    assert 0 < len(study.bars("skip: ", highlighted=False)) < before
    assert "depth 20: 9 skip connections" in study.tab.inner_text("body")


@pytest.mark.parametrize("make", [report_sample.unet, report_sample.dense])
def test_the_page_of_one_model(make: Any, page: Tab, tmp_path: Path) -> None:
    tables = _model_tables(make())
    opened = Opened(page, model_page("net", ["two skips"], tables, {"difference": 0.0}).html(), tmp_path)
    assert opened.complaints == []
    assert opened.tab.locator("path[stroke-width='9']").count() == len(tables["skips"])


def test_the_page_of_a_model_without_skips(page: Tab, tmp_path: Path) -> None:
    tables = _model_tables(report_sample.unet())
    tables["skips"] = tables["skips"].iloc[:0]
    opened = Opened(page, model_page("net", [], tables, {}).html(), tmp_path)
    assert opened.complaints == []
    assert "no skip connections" in opened.tab.inner_text("body")


def test_data_cannot_end_the_script(page: Tab, tmp_path: Path) -> None:
    tables = _model_tables(report_sample.unet())
    tables["spine"]["name"] = "</script><b>out</b>"
    opened = Opened(
        page, model_page("</script><b>out</b>", ["</script>"], tables, {"</script>": "</pre>"}).html(), tmp_path
    )
    assert opened.complaints == []
    assert opened.tab.locator("main b").count() == 0


def _model_tables(sample: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    histogram = pd.DataFrame({"nonlinearities": [3, 5], "paths": ["1", "1"], "share": [0.5, 0.5]})
    witness = pd.DataFrame({"step": [0], "name": ["conv"], "target": ["conv2d"], "module": ["a"], "kind": ["weight"]})
    apart = pd.DataFrame({"reason": ["gate"], "path": ["se"], "detail": ["weighted"], "source": [None]})
    skips = sample["skips"] if "parent" in sample["skips"] else sample["skips"].assign(parent=None)
    return {
        "spine": sample["spine"],
        "skips": skips.assign(remarks="long"),
        "non_skips": apart,
        "histogram": histogram,
        "witness": witness,
    }
