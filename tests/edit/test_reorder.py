import itertools

import pytest
import torch
from torch import nn

import skiplab
from networks import Net, heavy, linear
from oracles.edited import SHAPES, blocks, found
from skiplab.edit import remove_branch, reorder
from skiplab.errors import StaleSkip, UsageError
from skiplab.models import SkipConnection, resnet


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_every_order_is_the_sequence_of_blocks_in_that_order(order: tuple[int, ...]) -> None:
    model = blocks("vector")
    program, skips = found(model, (3, 4))
    edited = reorder(program, skips, order)
    x = torch.randn(2, 4)
    module = edited.module()
    assert torch.equal(module(x), nn.Sequential(*(model[i] for i in order))(x))
    state = module.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("form", SHAPES)
def test_some_of_the_blocks_in_a_cycle(form: str) -> None:
    model = blocks(form, 5)
    program, skips = found(model, SHAPES[form])
    chosen = skiplab.Skips(skips[i] for i in (0, 2, 4))
    module = reorder(program, chosen, (1, 2, 0)).module()
    x = torch.randn(SHAPES[form])
    assert torch.equal(module(x), nn.Sequential(*(model[i] for i in (2, 1, 4, 3, 0)))(x))


def test_back_again() -> None:
    """Its structure is what it was, so that the records of before are valid still."""
    program, skips = found(blocks("vector"), (3, 4))
    there = reorder(program, skips, (1, 2, 0))
    back = reorder(there, skips, (2, 0, 1))
    assert str(back.graph.graph) == str(program.graph.graph)
    assert str(there.graph.graph) != str(program.graph.graph)


def test_norms_move_with_their_statistics() -> None:
    model = resnet(20, width=4)
    program, skips = found(model, (2, 3, 16, 16))
    stage = model.get_submodule("layer2")
    assert isinstance(stage, nn.Sequential)
    chosen = skips.at("layer2.[12]").expect(2)
    torch.manual_seed(4)
    for name, buffer in model.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.uniform_(0.5, 1.5)
    module = reorder(program, chosen, (1, 0)).module().train()
    stage[1], stage[2] = stage[2], stage[1]
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(module(x), model.train()(x))
    other = {"layer2.1": "layer2.2", "layer2.2": "layer2.1"}
    for name, buffer in model.named_buffers():
        if name.endswith(("mean", "var")):  # as this step has left them
            torch.testing.assert_close(module.get_buffer(other.get(name[:8], name[:8]) + name[8:]), buffer)


def test_weights_that_are_computed_on_before_they_are_used() -> None:
    def normed() -> nn.Module:
        return SkipConnection(nn.Sequential(nn.utils.parametrizations.weight_norm(linear()), nn.ReLU(), linear()))

    torch.manual_seed(0)
    model = nn.Sequential(normed(), normed())
    program, skips = found(model, (3, 8))
    x = torch.randn(3, 8)
    torch.testing.assert_close(reorder(program, skips, (1, 0)).module()(x), model[0](model[1](x)))


@pytest.mark.parametrize("order", [(0, 1), (0, 1, 1), (1, 2, 3), (0, 1, 2, 3)])
def test_an_order_names_each_block_once(order: tuple[int, ...]) -> None:
    program, skips = found(blocks("vector"), (3, 4))
    with pytest.raises(UsageError, match="each of the numbers 0 … 2 of these skips once"):
        reorder(program, skips, order)


def test_blocks_that_are_not_alike_stay() -> None:
    wide = SkipConnection(nn.Sequential(linear(8, 16), nn.ReLU(), linear(16, 8)))
    smooth = SkipConnection(nn.Sequential(linear(), nn.GELU(), linear()))
    for other in (wide, smooth):
        program, skips = found(nn.Sequential(SkipConnection(heavy()), other), (3, 8))
        with pytest.raises(UsageError, match=r"`1` .* and `0` .* cannot trade places"):
            reorder(program, skips, (1, 0))
        assert str(reorder(program, skips, (0, 1)).graph.graph) == str(program.graph.graph)


def test_blocks_with_the_same_weights_stay() -> None:
    model = Net(lambda net, x: net.b(net.b(x)), b=SkipConnection(heavy()))
    program, skips = found(model, (3, 8))
    with pytest.raises(UsageError, match="cannot trade places"):
        reorder(program, skips.expect(2), (1, 0))


def test_stale_skips() -> None:
    program, skips = found(blocks("vector"), (3, 4))
    with pytest.raises(StaleSkip, match="another program"):
        reorder(remove_branch(program, skips[:1]), skips[1:], (1, 0))
    edited = remove_branch(program, skips[:1])
    rest = skiplab.find(edited)
    model = nn.Sequential(*(SkipConnection(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))) for _ in "12"))
    swapped = reorder(edited, rest, (1, 0)).module()
    names = {"0": "2", "1": "1"}  # the blocks in the order in which they are computed
    state = {names[name[0]] + name[1:]: value for name, value in model.state_dict().items()}
    swapped.load_state_dict(state)
    x = torch.randn(3, 4)
    assert torch.equal(swapped(x), model(x))
