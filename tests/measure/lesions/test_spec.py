import pytest

from cases import captured
from skiplab.analysis.edges import branch_edges
from skiplab.data.bound_batches import validate_batches
from skiplab.errors import UsageError
from skiplab.measure.lesions.replacements import zero
from skiplab.measure.lesions.resumable_pass import Part
from skiplab.measure.lesions.spec import deletions, grouped


def test_groups_of_skips() -> None:
    skips = captured("dense_block").skips.expect(10)
    assert [group for (group,) in grouped(skips, 1)] == list(skips)
    assert [len(grouped(skips, k)) for k in range(1, 11)] == list(range(10, 0, -1))
    assert all(list(group) == list(skips[i : i + 4]) for i, group in enumerate(grouped(skips, 4)))
    pairs = grouped(skips, "pairs")
    assert len({(a.id, b.id) for a, b in pairs}) == len(pairs) == 10 * 9 / 2
    assert grouped(skips.at("nothing"), 3) == grouped(skips.at("nothing"), "pairs") == []


@pytest.mark.parametrize("groups", [0, -1, 11])
def test_groups_that_there_are_none_of(groups: int) -> None:
    with pytest.raises(UsageError, match="a number from 1 to 10, that of the skips"):
        grouped(captured("dense_block").skips, groups)


def test_a_deletion_of_several_skips_holds_the_edges_of_all() -> None:
    case = captured("dense_block")
    (given,) = validate_batches(case.program, [(case.args[0], None)])
    for lesion, (a, b) in zip(
        deletions(case.program, grouped(case.skips, "pairs"), {"branch": zero}),
        grouped(case.skips, "pairs"),
        strict=True,
    ):
        edges = {*branch_edges(case.program, a), *branch_edges(case.program, b)}
        assert set(lesion.patches(Part(given, 0, print))) == edges
        readers = {reader for reader, _ in edges}
        assert lesion.start == next(name for name in case.program.nodes if name in readers)
        assert lesion.order == min(case.program.by_name[skip.merge].index for skip in (a, b))
        assert (lesion.id, lesion.k) == (f"{a.id} + {b.id}", 2)
