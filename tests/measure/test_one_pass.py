import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import skiplab
from oracles.tower import Tower, samples
from skiplab.errors import UsageError
from skiplab.measure import clipping, contribution, gradient, together


@pytest.fixture(scope="module")
def tower() -> tuple:
    torch.manual_seed(0)
    program = skiplab.capture(Tower(), (torch.randn(4, 6, dtype=torch.double),))
    return program, skiplab.find(program)


def test_one_pass_gives_what_three_give(tower: tuple) -> None:
    program, skips = tower
    batches = samples(4, 3)
    tables = together(program, skips, batches, F.cross_entropy)
    pd.testing.assert_frame_equal(tables["contribution"], contribution(program, skips, batches))
    pd.testing.assert_frame_equal(tables["clipping"], clipping(program, skips, batches))
    pd.testing.assert_frame_equal(tables["gradient"], gradient(program, skips, batches, F.cross_entropy))


def test_the_network_runs_once_for_all(tower: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    from skiplab.graph.interpreter import Execution

    program, skips = tower
    passes = []
    finish = Execution.finish
    monkeypatch.setattr(Execution, "finish", lambda self: passes.append(self) or finish(self))
    together(program, skips, samples(4, 3), F.cross_entropy)
    assert len(passes) == 2


def test_without_the_gradient_no_loss_is_needed(tower: tuple) -> None:
    program, skips = tower
    tables = together(program, skips, [(x, None) for x, _ in samples(3)], what=("clipping", "contribution"))
    assert list(tables) == ["clipping", "contribution"]
    with pytest.raises(UsageError, match="gradient: give a loss to differentiate"):
        together(program, skips, samples(3))
    with pytest.raises(UsageError, match="'lesion' cannot share a pass"):
        together(program, skips, samples(3), F.cross_entropy, what=("lesion",))
