import pytest

from cases import captured
from skiplab.analysis.edges import branch_edges, fork_edges, shortcut_edges


@pytest.mark.parametrize("name", ["resnet18", "unet", "dense_block", "bert", "highway", "written_gru_cho", "swin_t"])
def test_every_skip_has_both_ends_of_both_ways(name: str) -> None:
    case = captured(name)
    for skip in case.skips.in_graph():
        into = shortcut_edges(case.program, skip), branch_edges(case.program, skip)
        out = fork_edges(case.program, skip)
        assert all(into)
        assert all(out)
        assert not set(into[0]) & set(into[1])
        assert not set(out[0]) & set(out[1])
        for reader, operand in (*out[0], *out[1]):
            assert operand == skip.fork
            assert case.program.by_name[skip.fork].index in case.program.by_name[reader].inputs


def test_the_ways_of_a_transformers_block() -> None:
    """Pre-norm attention: the shortcut leaves the fork for the addition itself, the branch through the norm."""
    case = captured("gpt2")
    shortcut, branch = fork_edges(case.program, case.skips[0])
    assert shortcut == shortcut_edges(case.program, case.skips[0])
    assert [case.program.by_name[reader].kind for reader, _ in branch] == ["norm"]


def test_a_gates_making_is_no_part_of_the_shortcut() -> None:
    """(1 − z) · n + z · h: h goes into the product by the shortcut, and into z and n by the branch."""
    case = captured("written_gru_cho")
    for skip in case.skips:
        shortcut, branch = fork_edges(case.program, skip)
        assert {case.program.by_name[reader].kind for reader, _ in shortcut} == {"product"}
        assert branch
