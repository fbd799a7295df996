from itertools import product
from math import comb

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree

import skiplab
from cases import captured
from oracles.tower import Tower, samples
from skiplab.analysis.edges import branch_edges
from skiplab.data.bound_batches import BoundBatch
from skiplab.errors import DataError, UsageError
from skiplab.graph.interpreter import Execution
from skiplab.measure import lengths
from skiplab.measure.input_leaves import input_leaves, replace_values
from skiplab.measure.lengths import _coefficients, _path_counts
from skiplab.models import resnet


@pytest.fixture(scope="module")
def tower() -> tuple:
    torch.manual_seed(0)
    model = Tower()
    program = skiplab.capture(model, (torch.randn(4, 6, dtype=torch.double),))
    return model, program, skiplab.find(program).expect(4)


def along(tower: Tower, x: Tensor, target: Tensor, ways: tuple[int, ...]) -> Tensor:
    """One sample's gradient along one path: in each block the other way is cut off from the gradient."""
    start = x.clone().requires_grad_()
    value = start
    for block, way in zip(tower.blocks, ways, strict=True):
        shortcut, branch = block.shortcut(value), block.branch(value)  # type: ignore[operator]
        shortcut, branch = (shortcut.detach(), branch) if way else (shortcut, branch.detach())
        value = block.after(block.join(shortcut, branch))  # type: ignore[operator]
    (grad,) = torch.autograd.grad(F.cross_entropy(tower.head(value), target), start)
    return grad[0]


def test_against_every_path_by_itself(tower: tuple) -> None:
    model, program, skips = tower
    batches = samples(3, 2)
    table = lengths(program, skips, batches, F.cross_entropy)
    norms, shares = [[0.0] * 5 for _ in range(2)], [0.0] * 5
    for x, target in ((xs[i : i + 1], ts[i : i + 1]) for xs, ts in batches for i in range(len(xs))):
        parts = torch.zeros(5, 6, dtype=torch.double)
        for ways in product((0, 1), repeat=4):
            parts[sum(ways)] += along(model, x, target, ways)
        whole = parts.sum(0)
        for k in range(5):
            norms[0][k] += float(parts[k].norm()) / 5
            norms[1][k] += float(parts[k].norm() / parts.norm(dim=1).sum()) / 5
            shares[k] += float(parts[k] @ whole / (whole @ whole)) / 5
    assert table["norm"].tolist() == pytest.approx(norms[0], rel=1e-9)
    assert table["weight"].tolist() == pytest.approx(norms[1], rel=1e-9)
    assert table["share"].tolist() == pytest.approx(shares, rel=1e-9)
    assert table["path_share"].tolist() == [comb(4, k) / 16 for k in range(5)]


def both_gradients(name: str) -> tuple[Tensor, Tensor]:
    """The coefficients, and the ordinary gradient, of one of the table's networks on its example."""
    case = captured(name)
    program, skips = case.program, case.skips.in_graph()
    args, kwargs = program.example
    marked = {edge for skip in skips for edge in branch_edges(program, skip)}
    origin = input_leaves(program)
    count = len(_path_counts(program, marked, origin))
    found = _coefficients(program, BoundBatch(args, kwargs, None, 1), squares, marked, origin, count)

    leaves: list[Tensor] = []

    def leaf(_: object, value: Tensor) -> Tensor:
        leaves.append(value.detach().requires_grad_())
        return leaves[-1]

    frozen = {n: t.detach() for n, t in program.tensors.items()}
    with torch.enable_grad():
        output = Execution(
            program, args, kwargs, patches=replace_values(program, origin, leaf), tensors=frozen
        ).finish()
        grads = torch.autograd.grad(squares(output, None), leaves, allow_unused=True, materialize_grads=True)
    return found.reshape(count, -1), torch.cat([grad.flatten() for grad in grads])


def squares(output: object, _: object) -> Tensor:
    real = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
    return torch.stack([t.square().sum() for t in real]).sum()


@pytest.mark.parametrize(
    "name",
    """resnet18 unet dense_block parallel highway written_gru_cho lerp negated timm_vit swin_t bert gptj
    t5 mamba timm_dla timm_hrnet smp_unet detr lstm keywords scaled""".split(),
)
def test_lengths_add_up_to_the_ordinary_gradient(name: str) -> None:
    parts, whole = both_gradients(name)
    assert (parts.sum(0) - whole).norm() <= 1e-3 * whole.norm()  # in single precision


def test_against_copies_of_the_batch(tower: tuple) -> None:
    """A second way: n + 1 copies along the batch, and at each branch's end a hook that moves gradients on by one."""
    _, program, skips = tower
    ((x, target),) = samples(2)
    n = len(skips) + 1
    copies = x.repeat(n, 1).requires_grad_()

    def patch(value: Tensor) -> Tensor:
        alias = value.view_as(value)
        alias.register_hook(lambda grad: torch.cat([torch.zeros_like(grad[:2]), grad[:-2]]))
        return alias

    patches = {edge: patch for skip in skips for edge in branch_edges(program, skip)}
    output = Execution(program, (copies,), patches=patches).finish()
    (grad,) = torch.autograd.grad(2 * F.cross_entropy(output[:2], target), copies)
    norms = grad.reshape(n, 2, -1).norm(dim=2).mean(1)
    assert lengths(program, skips, [(x, target)], F.cross_entropy)["norm"].tolist() == pytest.approx(norms.tolist())


def test_resnets_paths_are_binomial() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 2])
    program = skiplab.capture(resnet(20, width=4), (x,))
    skips = skiplab.find(program)
    table = lengths(program, skips, [(x, y)], F.cross_entropy)
    assert table["path_share"].tolist() == [comb(9, k) / 2**9 for k in range(10)]
    later = lengths(program, skips, [(x, y)], F.cross_entropy, at=skips[6])
    assert later["path_share"].tolist() == [comb(3, k) / 2**3 for k in range(4)]
    assert lengths(program, skips.at("layer1.*"), [(x, y)], F.cross_entropy)["length"].tolist() == [0, 1, 2, 3]


@given(scale=st.floats(0.1, 100))
def test_shares_sum_to_one_and_do_not_scale_with_the_loss(tower: tuple, scale: float) -> None:
    _, program, skips = tower
    batches = samples(3)
    one = lengths(program, skips, batches, F.cross_entropy)
    scaled = lengths(program, skips, batches, lambda o, t: scale * F.cross_entropy(o, t))
    assert one["share"].sum() == pytest.approx(1)
    assert one["weight"].sum() == pytest.approx(1)
    assert one["path_share"].sum() == pytest.approx(1)
    columns = ["share", "share_std", "weight", "path_share"]
    pd.testing.assert_frame_equal(one[columns], scaled[columns], rtol=1e-9)
    assert scaled["norm"].tolist() == pytest.approx((scale * one["norm"]).tolist())


def test_how_samples_are_batched_does_not_matter(tower: tuple) -> None:
    _, program, skips = tower
    ((x, target),) = samples(5)
    whole = lengths(program, skips, [(x, target)], F.cross_entropy)
    parts = lengths(program, skips, [(x[:4], target[:4]), (x[4:], target[4:])], F.cross_entropy)
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-9)


def test_the_model_is_left_alone(tower: tuple) -> None:
    model, program, skips = tower
    lengths(program, skips, samples(2), F.cross_entropy)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_bad_input(tower: tuple) -> None:
    _, program, skips = tower
    ((x, target),) = samples(3)
    x[1, 2] = torch.inf
    with pytest.raises(DataError, match="input 0 holds NaN or infinity in sample 1"):
        lengths(program, skips, [(x, target)], F.cross_entropy)
    with pytest.raises(UsageError, match="found in another program"):
        lengths(program, skips, samples(2), F.cross_entropy, at=captured("block").skips[0])
