from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skiplab
from cases import captured
from networks import Net, conv
from oracles.lesioned import Normed, images, mean_loss, reestimated_loss, swapped
from skiplab.errors import DataError, UsageError
from skiplab.graph.program import Program
from skiplab.measure import lesion
from skiplab.measure.lesions.batchnorm import require_batch_norms


def network(*, shared: bool = False) -> tuple[Normed, Program]:
    torch.manual_seed(0)
    model = Normed(3, shared=shared)
    return model, skiplab.capture(model, (torch.randn(4, 2, 4, 4, dtype=torch.double),))


@pytest.mark.parametrize("shared", [False, True])
def test_against_update_bn_on_the_module_without_the_blocks(shared: bool) -> None:
    model, program = network(shared=shared)
    skips, batches = skiplab.find(program).expect(3), images(5, 4, 3)
    choices: list[tuple[Any, list[set[int]]]] = [(1, [{0}, {1}, {2}]), ("pairs", [{0, 1}, {0, 2}, {1, 2}])]
    for groups, numbers in choices:
        table = lesion(program, skips, batches, F.cross_entropy, groups=groups, reestimate=True)
        whole = reestimated_loss(model, batches, F.cross_entropy)
        wanted = [reestimated_loss(model, batches, F.cross_entropy, frozenset(each)) for each in numbers]
        anew = table[table["batchnorm"] == "re-estimated"]
        assert anew["loss"].to_list() == pytest.approx(wanted, rel=1e-9)
        assert anew["loss_change"].to_list() == pytest.approx([loss - whole for loss in wanted], abs=1e-9)
        assert whole != pytest.approx(mean_loss(model, batches, F.cross_entropy), rel=1e-3)


def test_a_program_whose_forks_start_anew() -> None:
    _, program = network()
    skips, batches = skiplab.find(program), images(5, 4)
    again = replace(program, unfollowed=("something",))
    tables = [lesion(p, skips, batches, F.cross_entropy, reestimate=True) for p in (program, again)]
    assert tables[0]["loss"].to_list() == pytest.approx(tables[1]["loss"].to_list(), rel=1e-12)


def test_rows_as_trained_come_first_and_are_the_same() -> None:
    _, program = network()
    skips, batches = skiplab.find(program), images(5, 4)
    alone = lesion(program, skips, batches, F.cross_entropy)
    table = lesion(program, skips, batches, F.cross_entropy, reestimate=True)
    assert table["batchnorm"].to_list() == ["as trained"] * 3 + ["re-estimated"] * 3
    assert table[:3].equals(alone)


def test_the_models_statistics_stay() -> None:
    model, program = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lesion(program, skiplab.find(program), images(5), F.cross_entropy, reestimate=True, kinds=["mean", "shuffle"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training


def test_reordered_blocks_keep_their_weights_and_get_statistics_where_they_are() -> None:
    program, batches = network()[1], images(5, 4)
    skips = skiplab.find(program)
    table = lesion(program, skips, batches, F.cross_entropy, kinds=[], reorder=1, draws=3, reestimate=True)
    for row in table[table["batchnorm"] == "re-estimated"].itertuples():
        a, b = ([skip.id for skip in skips].index(name) for name in str(row.id).split(" ↔ "))
        wanted = reestimated_loss(swapped(network()[0], a, b), batches, F.cross_entropy)
        assert row.loss == pytest.approx(wanted, rel=1e-9)


def test_the_batch_norms_of_a_program() -> None:
    _, program = network()
    assert [len(norm.calls) for norm in require_batch_norms(program)] == [1] * 6
    assert [len(norm.calls) for norm in require_batch_norms(network(shared=True)[1])] == [6]
    with pytest.raises(UsageError, match="has no batch norm with statistics to re-estimate: leave `reestimate` out"):
        require_batch_norms(captured("pre_norm").program)


def test_batch_norms_without_statistics_have_none_to_estimate() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(4, track_running_stats=False)
            self.branch = conv()

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x) + self.branch(x)

    program = skiplab.capture(Own(), (torch.randn(4, 4, 8, 8),))
    assert len(require_batch_norms(program)) == 1


def test_one_value_a_channel_has_no_variance() -> None:
    model = Net(lambda net, x: x + net.b(net.a(x)), a=nn.Linear(8, 8), b=nn.BatchNorm1d(8))
    program = skiplab.capture(model, (torch.randn(3, 8),))
    batches = [(torch.randn(1, 8), None)]
    with pytest.raises(DataError, match="gets one value a channel, which has no variance: re-estimate on larger"):
        lesion(program, skiplab.find(program), batches, lambda o, _: o.square().mean(), reestimate=True)
