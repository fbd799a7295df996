"""Known networks have nothing to find, except what is written here."""

from collections import Counter

import pytest

from cases import CASES, TRAINED, captured
from skiplab.linter import lint

FOUND = {
    "activated_shortcut": {"nonlinear-shortcut": 1},
    "broadcast": {"broadcast-merge": 1},
    "counting": {"broadcast-merge": 1},  # the batch's mean is added to each sample
    "rwkv": {"dead-branch": 2},  # in each of two layers, the last token's numerator, that only a cache would read
}


@pytest.mark.parametrize("name", CASES)
def test_inference_graphs(name: str) -> None:
    case = captured(name)
    findings = lint(case.program, case.skips)
    assert Counter(finding.rule for finding in findings) == FOUND.get(name, {})
    unchecked = [note for note in findings.notes if "train=True" not in note]
    assert all(note.startswith("dead-branch: the network was captured without values") for note in unchecked)
    assert len(unchecked) == CASES[name].meta


@pytest.mark.parametrize("name", TRAINED)
def test_training_graphs(name: str) -> None:
    case = captured(name, train=True)
    assert Counter(finding.rule for finding in lint(case.program, case.skips)) == FOUND.get(name, {})


def test_torchvisions_swin_shares_its_drop_path() -> None:
    """One object for attention and MLP, in each block (of two skips) but the first, whose rate is zero."""
    case = captured("swin_t", train=True)
    findings = lint(case.program, case.skips)
    assert Counter(finding.rule for finding in findings) == {"shared-drop-path": len(case.skips) // 2 - 1}
    assert all("swin_transformer.py:" in str(finding.source) for finding in findings)
