import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import skiplab
from cases import captured
from edits import Untouched, assert_sound, captured_with_statistics
from networks import Counting, conv
from oracles.lesioned import Normed, images
from skiplab.edit import recalibrate, remove_branch
from skiplab.errors import DataError, UsageError
from skiplab.models import resnet


def updated(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The statistics that torch's own `update_bn` gives a copy."""
    own = copy.deepcopy(model)
    update_bn([x for x, _ in batches], own)
    return {name: value for name, value in own.state_dict().items() if "running" in name}


@pytest.mark.parametrize("shared", [False, True])
def test_statistics_are_those_of_update_bn(shared: bool) -> None:
    torch.manual_seed(0)
    model = Normed(3, shared=shared)
    program = skiplab.capture(model, (torch.randn(4, 2, 4, 4, dtype=torch.double),))
    batches = images(5, 4, 3)
    with Untouched(program):
        again = recalibrate(program, batches)
    own = again.module().state_dict()
    wanted = updated(model, batches)
    torch.testing.assert_close({name: own[name] for name in wanted}, wanted, rtol=1e-12, atol=1e-12)
    assert any(not torch.equal(value, model.state_dict()[name]) for name, value in wanted.items())
    assert_sound(again, batches[0][0])


def test_all_other_tensors_are_shared() -> None:
    _, program = captured_with_statistics(resnet(8, width=4), torch.randn(2, 3, 16, 16))
    again = recalibrate(program, [(torch.randn(4, 3, 16, 16, dtype=torch.double), None)])
    names = {**program.parameters, **program.buffers}
    other = {names[node] for node, tensor in program.tensors.items() if again.tensors[node] is not tensor}
    assert other == {name for name in names.values() if name.endswith(("running_mean", "running_var"))}
    assert not again.removed
    assert not again.added
    assert again.fingerprint == program.fingerprint


def test_after_an_edit() -> None:
    """What a network without its second block has when its statistics are estimated anew."""
    torch.manual_seed(0)
    model = Normed(3)
    program = skiplab.capture(model, (torch.randn(4, 2, 4, 4, dtype=torch.double),))
    batches = images(6, 6)
    again = recalibrate(remove_branch(program, skiplab.find(program)[1:2]), batches)
    model.left_out = frozenset({1})
    wanted, own = updated(model, batches), again.module().state_dict()
    kept = {name: value for name, value in wanted.items() if not name.startswith(("norms.2", "norms.3"))}
    torch.testing.assert_close({name: own[name] for name in kept}, kept, rtol=1e-12, atol=1e-12)
    assert {name for name in own if "running" in name} == kept.keys()


def test_buffers_that_the_network_writes_stay() -> None:
    program = skiplab.capture(nn.Sequential(Counting(), nn.BatchNorm1d(8)).eval(), (torch.randn(4, 8),))
    with Untouched(program):
        again = recalibrate(program, [(torch.randn(4, 8), None)] * 2)
    kept = {name for node, name in program.buffers.items() if again.tensors[node] is program.tensors[node]}
    assert {"0.steps", "0.queue", "0.total"} <= kept


def test_nothing_to_do_and_nothing_to_do_it_with() -> None:
    with pytest.raises(UsageError, match="has no batch norm statistics to re-estimate: use it unchanged"):
        recalibrate(captured("pre_norm").program, [])
    program = skiplab.capture(conv(), (torch.randn(2, 4, 8, 8),))
    with pytest.raises(DataError, match="no batches: "):
        recalibrate(program, [])
    with pytest.raises(DataError, match="batch 1 has an input of shape"):
        recalibrate(program, [(torch.randn(2, 4, 9, 9), None)])
    with pytest.raises(UsageError, match="does not read the statistics of its batch norms"):
        recalibrate(skiplab.capture(conv(), (torch.randn(2, 4, 8, 8),), train=True), [])
