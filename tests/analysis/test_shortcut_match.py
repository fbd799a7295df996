import os
import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest

import skiplab
from cases import captured
from oracles import graphs
from skiplab.analysis import backtrace, finder
from skiplab.analysis.backtrace import ShortcutTraces
from skiplab.analysis.merges import merges
from skiplab.analysis.shortcut_match import match_shortcuts
from skiplab.graph.program import Op, Program

# The example of shortcut_match's docstring.
POOLED: graphs.Plan = [
    ("input", "input", ()),
    ("weight", "conv2d", (0,)),
    ("activation", "relu", (1,)),
    ("weight", "conv2d", (2,)),
    ("resample", "avg_pool2d", (0,)),
    ("merge", "add", (3, 4)),
]


def test_the_example_of_the_docstring() -> None:
    program = graphs.program(POOLED)
    ((match,),) = match_shortcuts(ShortcutTraces(program), merges(program))
    assert (match.position, match.step.value, match.step.shortcut) == (1, 0, "resample")
    assert [op.index for op in match.shortcut_ops] == [4]
    assert (match.branch, match.weights) == ((0,), 2)


def test_find_asks_each_other_module_at_most_twice() -> None:
    """However many merges there are; and no other module calls back into the finder's file."""
    program = captured("resnet20").program
    source, package = finder.__file__, os.path.dirname(str(skiplab.__file__))
    asked: Counter[str] = Counter()
    back: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        here = frame.f_code.co_filename
        if event != "call" or not here.startswith(package) or frame.f_code.co_name.startswith("__"):
            return  # a record's own methods are no other stage
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(package):
            caller = caller.f_back  # the checks of types that tests put around every function
        there = source if caller is None else caller.f_code.co_filename
        if here != there:
            asked[here] += there == source
            back[there] += here == source

    sys.setprofile(count)
    try:
        skips = skiplab.find(program)
    finally:
        sys.setprofile(None)
    assert len(skips) > 2
    assert 1 <= max(asked.values()) <= 2
    assert sum(back.values()) == 0


@pytest.mark.parametrize("name", ["unrolled_lstm", "written_lstm", "highway"])
def test_find_decides_each_gate_once(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Although traces, matches of gated sums and `non_skips` all use the gates."""
    captured_program = captured(name).program
    asked: Counter[int] = Counter()
    gate_of = backtrace._gate_of

    def counted(program: Program, op: Op) -> int | None:
        asked[op.index] += op.kind == "product"
        return gate_of(program, op)

    monkeypatch.setattr(backtrace, "_gate_of", counted)
    skips = skiplab.find(captured_program)
    assert any(skip.gates for skip in skips)
    assert max(asked.values()) == 1
