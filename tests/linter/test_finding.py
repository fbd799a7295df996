import dataclasses
import json

import pytest
import torch

import skiplab
from networks import Block, around
from skiplab.errors import StaleSkip
from skiplab.linter import Finding, Findings, findings_json, lint

ONE = Finding(rule="dead-branch", path="a", source="f.py:1", what="what", why="why", fix="fix", reference="reference")
TWO = dataclasses.replace(ONE, path="b")


def test_findings_are_a_sequence_without_repeats() -> None:
    findings = Findings([ONE, TWO, ONE], ["a note.", "a note."])
    assert list(findings) == [ONE, TWO]
    assert findings[1] is TWO
    assert list(findings[1:]) == [TWO]
    assert findings.notes == ("a note.",)
    assert repr(findings) == "<2 findings: 2 dead-branch>"
    assert repr(Findings()) == "<0 findings: none>"


def test_sums_hold_each_finding_once_and_the_notes_of_both() -> None:
    both = Findings([ONE], ["no values.", "no training."]) + Findings([ONE, TWO], ["no values."])
    assert list(both) == [ONE, TWO]
    assert both.notes == ("no values.",)


def test_tables_have_a_row_a_finding() -> None:
    assert list(Findings([ONE, TWO]).table()["path"]) == ["a", "b"]
    assert list(Findings().table().columns) == [field.name for field in dataclasses.fields(Finding)]
    assert "dead-branch" in Findings([ONE])._repr_html_()


def test_json_has_a_version() -> None:
    value = json.loads(json.dumps(findings_json("net", Findings([ONE], ["a note."]))))
    assert value == {
        "schema": "skiplab.lint/2",
        "model": "net",
        "findings": [dataclasses.asdict(ONE)],
        "notes": ["a note."],
    }


def test_skips_are_looked_for_when_none_are_given_and_must_be_of_the_program() -> None:
    x = torch.randn(3, 8)
    program, other = skiplab.capture(Block(), (x,)), skiplab.capture(around(lambda x, f: x - f), (x,))
    assert list(lint(program)) == list(lint(program, skiplab.find(program))) == []
    with pytest.raises(StaleSkip):
        lint(program, skiplab.find(other))
