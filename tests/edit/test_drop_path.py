import pytest
import torch
from torch import Tensor, nn

import skiplab
from networks import Net, heavy, linear
from oracles.edited import SHAPES, blocks, found
from skiplab.edit import drop_path
from skiplab.errors import UsageError
from skiplab.graph.interpreter import run
from skiplab.graph.module import ProgramModule
from skiplab.models import SkipConnection


def masks(module: ProgramModule, block: nn.Module, x: Tensor) -> Tensor:
    """What each sample's branch has been multiplied by, which has to be one number."""
    with torch.no_grad():
        f, output = block.get_submodule("branch")(x), module(x)
    mask = ((output - x) * f).flatten(1).sum(1) / f.square().flatten(1).sum(1)
    torch.testing.assert_close(output, x + mask.view(-1, *[1] * (x.dim() - 1)) * f)
    return mask


@pytest.mark.parametrize("form", SHAPES)
def test_in_training_whole_branches_of_single_samples_are_dropped(form: str) -> None:
    model = blocks(form, 1)
    program, skips = found(model, SHAPES[form])
    module = drop_path(program, skips, 0.25).module()
    x = torch.randn(200, *SHAPES[form][1:])
    assert torch.equal(module(x), run(program, x))
    torch.manual_seed(5)
    seen = masks(module.train(), model[0], x)
    dropped = seen.abs() < 1e-3
    torch.testing.assert_close(seen[~dropped], torch.full_like(seen[~dropped], 4 / 3), rtol=1e-3, atol=0)
    assert 25 < int(dropped.sum()) < 75  # 50 ± 4 standard deviations
    torch.manual_seed(5)
    torch.testing.assert_close(masks(module, model[0], x), seen, rtol=1e-3, atol=1e-3)


def test_on_average_nothing_changes() -> None:
    model = blocks("vector", 1)
    program, skips = found(model, (3, 4))
    module = drop_path(program, skips, 0.4, linear=False).module().train()
    torch.manual_seed(6)
    seen = masks(module, model[0], torch.randn(4, 4).repeat(2500, 1))
    assert float(seen.mean()) == pytest.approx(1, abs=5 * (0.4 / 0.6 / 10000) ** 0.5)


@pytest.mark.parametrize(("linear", "rates"), [(True, [0.2, 0.4, 0.6]), (False, [0.6, 0.6, 0.6])])
def test_rates_grow_with_depth(linear: bool, rates: list[float]) -> None:
    program, skips = found(blocks("vector"), (3, 4))
    edited = drop_path(program, skips, 0.6, linear)
    nodes = edited.graph.graph.find_nodes(op="call_function", target=torch.ops.aten.feature_dropout.default)
    assert [node.args[1] for node in nodes] == pytest.approx(rates)


def test_branches_of_one_merge_are_dropped_apart() -> None:
    """Its share of the depth is one, however many values a merge's branch has."""
    model = Net(lambda net, x: x + net.f(x) + net.g(x), f=heavy(), g=heavy())
    program, skips = found(model, (3, 8))
    module = drop_path(program, skips.expect(1), 0.5).module().train()
    x = torch.randn(64, 8)
    with torch.no_grad():
        f, g = (model.get_submodule(name)(x) for name in "fg")
        rest = module(x) - x
    kinds = [float(sum((rest - a * f - b * g).abs().amax(1) < 1e-5)) for a in (0, 2) for b in (0, 2)]
    assert sum(kinds) == 64
    assert min(kinds) > 4


def test_samples_that_do_not_come_first() -> None:
    """Time before batch, as recurrent layers have it."""

    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = SkipConnection(heavy())

        def forward(self, x: Tensor) -> Tensor:
            return self.block(x.transpose(0, 1)).transpose(0, 1)

    model = TimeFirst()
    program, skips = found(model, (3, 5, 8))
    module = drop_path(program, skips, 0.5).module().train()
    torch.manual_seed(7)
    seen = masks(module, model.block, torch.randn(100, 5, 8))
    assert 25 < int((seen.abs() < 1e-3).sum()) < 75


def test_no_dimension_of_samples() -> None:
    """Windows: each is a row of its own, and rows hold samples and windows."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = SkipConnection(heavy())

        def forward(self, x: Tensor) -> Tensor:
            return self.block(x.reshape(-1, 2, 8)).reshape(x.shape)

    program, skips = found(Windows(), (3, 4, 8))
    with pytest.raises(UsageError, match="no dimension holds only the samples: leave its skip out"):
        drop_path(program, skips, 0.5)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_a_probability_is_from_zero_to_below_one(p: float) -> None:
    program, skips = found(blocks("vector", 1), (3, 4))
    with pytest.raises(UsageError, match=r"give a probability of at least 0 and below 1"):
        drop_path(program, skips, p)


def test_the_training_graph_drops_at_once() -> None:
    model = blocks("vector", 1)
    program, skips = found(model, (3, 4), train=True)
    edited = drop_path(program, skips, 0.5)
    x = torch.randn(100, 4)
    torch.manual_seed(8)
    dropped = (run(edited, x) == x).all(1)
    assert 25 < int(dropped.sum()) < 75
    module = edited.module()
    assert torch.equal(module(x), model(x))
    torch.manual_seed(8)
    assert torch.equal((module.train()(x) == x).all(1), dropped)


def test_skips_are_found_past_it() -> None:
    model = nn.Sequential(SkipConnection(heavy()), linear())
    program, skips = found(model, (3, 8))
    again = skiplab.find(drop_path(program, skips, 0.5))
    assert [skip.id for skip in again] == [skip.id for skip in skips]
