from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import skiplab
from cases import captured, state
from networks import BasicBlock, Net
from oracles.tower import Tower, samples
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Execution, run
from skiplab.graph.program import Program
from skiplab.measure import lesion
from skiplab.measure.accelerate import faster
from skiplab.measure.estimate import estimate
from skiplab.measure.lesion import deviation
from skiplab.training.precision import has_bfloat16_units

aten = torch.ops.aten


def outputs(program: Program, *args: Any, **kwargs: Any) -> list[Tensor]:
    with torch.no_grad():
        return [x for x in pytree.tree_leaves(run(program, *args, **kwargs)) if isinstance(x, Tensor)]


def folded(program: Program) -> list[str]:
    return [node.name for node in program.graph.graph.nodes if node.target is aten.alias.default]


@pytest.mark.parametrize(
    "name",
    "mlp unet dense_block in_place repvgg highway lstm lstm_cell gru_3 masked pre_norm_rotary keywords two_inputs "
    "addmm stack_sum resnet20_b einsum_lanes shufflenet_v2 timm_resnetblur fnet gpt2".split(),
)
def test_every_kind_of_network_runs_and_keeps_its_records(name: str) -> None:
    case = captured(name)
    exact = outputs(case.program, *case.args, **case.kwargs)
    for dtype, precision in ((torch.float32, 1e-5), (torch.bfloat16, 0.03)):
        fast = faster(case.program, dtype)
        case.skips.check(fast)
        assert {op.name for op in fast.ops} <= set(fast.nodes)
        assert fast.inputs == case.program.inputs
        for got, wanted in zip(outputs(fast, *case.args, **case.kwargs), exact, strict=True):
            assert got.dtype == wanted.dtype
            size = float(wanted.abs().max()) or 1.0
            assert float((got.double() - wanted.double()).abs().max()) <= precision * size
    assert any(t.dtype == torch.bfloat16 for t in fast.tensors.values())


class Folding(nn.Module):
    """Batch norms that can be folded, with all that they may have or lack."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6))
        self.two = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same", groups=1), nn.BatchNorm2d(4, affine=False))
        self.three = nn.Sequential(nn.Conv3d(2, 4, 2, stride=2, groups=2), nn.BatchNorm3d(4, eps=0.1))
        self.flat = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5))
        self.up = nn.Sequential(nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), nn.BatchNorm1d(6))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        one, two = self.one(x.reshape(-1, 4, 12)), self.two(x.reshape(-1, 3, 4, 4))
        three, flat = self.three(x.reshape(-1, 2, 2, 3, 4)), self.flat(x[:, :7])
        return one, two, three, flat, self.up(x.reshape(-1, 4, 12))


class Resisting(nn.Module):
    """Batch norms that cannot: of a weight used twice, of a value read twice, of another dimension, of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv1d(4, 4, 3) for _ in range(3))
        self.linear = nn.Linear(4, 4)
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in range(6))
        self.own = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x.reshape(-1, 4, 12)
        twice, read = self.norms[0](self.a(x)) + self.norms[1](self.a(2 * x)), self.b(x)
        read = read * self.norms[2](read)
        features = self.norms[3](self.linear(x[..., :4]))
        scaled = self.norms[4](F.conv1d(x, self.c.weight * 2))
        return twice, read, features, scaled, self.norms[5](x), self.own(features)


def random_statistics(model: nn.Module) -> nn.Module:
    for name, tensor in model.double().state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else torch.randn_like(tensor))
    return model


@pytest.mark.parametrize(("build", "count"), [(Folding, 5), (Resisting, 0)])
def test_batch_norm_is_folded_where_it_can_be(build: Callable[[], nn.Module], count: int) -> None:
    torch.manual_seed(0)
    model = random_statistics(build())
    x = torch.randn(2, 48, dtype=torch.double)
    before = state(model)
    program = skiplab.capture(model, (x,))
    fast = faster(program, torch.double)
    assert len(folded(fast)) == count
    assert folded(program) == []
    torch.testing.assert_close(outputs(fast, x), outputs(program, x), rtol=1e-10, atol=1e-10)
    names = [node for node in program.nodes if node.startswith("batch_norm")]
    one, other = (Execution(each, (x,)).recording(names) for each in (program, fast))
    with torch.no_grad():
        one.finish()
        other.finish()
    torch.testing.assert_close(one.recorded, other.recorded, rtol=1e-10, atol=1e-10)  # node by node
    assert state(model) == before | {"random": state(model)["random"]}


def test_layouts() -> None:
    """Views that a tensor with its channels last does not have, and one that would silently show other entries."""
    x = torch.randn(2, 3, 4, 4)

    def viewed(net: Any, x: Tensor) -> Tensor:
        return net.f(x).view(-1, 4 * 16)

    def strided(net: Any, x: Tensor) -> Tensor:
        return net.f(x).as_strided((2, 4), (64, 16))

    for function, last in ((viewed, True), (strided, False)):
        program = skiplab.capture(Net(function, f=nn.Conv2d(3, 4, 3, padding=1)), (x,))
        fast = faster(program, torch.float32)
        weight = fast.tensors["p_f_weight"]
        assert weight.is_contiguous(memory_format=torch.channels_last) == last
        torch.testing.assert_close(outputs(fast, x), outputs(program, x), rtol=1e-5, atol=1e-5)


def test_what_the_network_computes_in_single_precision_stays_so() -> None:
    torch.manual_seed(0)

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.a(x)
        size = torch.rsqrt(x.to(torch.float32).square().mean(-1, keepdim=True))
        far = torch.fft.rfft(x).real.masked_fill(torch.tensor([True] + 4 * [False]), -3.4e38)
        return net.b(x * size) + far.clamp(min=-1.0).sum(-1, keepdim=True)

    program = skiplab.capture(Net(forward, a=nn.Linear(8, 8), b=nn.Linear(8, 8)), (torch.randn(3, 8),))
    fast = faster(program, torch.bfloat16)
    x = torch.randn(3, 8)
    execution = Execution(fast, (x,)).recording(["linear", "rsqrt", "linear_1"])
    with torch.no_grad():
        got = execution.finish()
    types = {name: value.dtype for name, value in execution.recorded.items()}
    assert types == {"linear": torch.bfloat16, "rsqrt": torch.float32, "linear_1": torch.bfloat16}
    torch.testing.assert_close([got], outputs(program, x), rtol=0.05, atol=0.05)


def test_batch_norm_keeps_its_statistics() -> None:
    program = skiplab.capture(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)), (torch.randn(2, 3, 4, 4),))
    types = {name: t.dtype for name, t in faster(program, torch.bfloat16).tensors.items() if t.is_floating_point()}
    assert {name for name, dtype in types.items() if dtype == torch.bfloat16} == {"p_1_weight", "p_1_bias"}


def test_a_network_that_does_not_fit_the_type_is_left_in_its_own() -> None:
    program = skiplab.capture(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), (torch.randn(2, 3, 4, 4),))
    fast = faster(program, torch.int32)
    assert {t.dtype for t in fast.tensors.values() if t.is_floating_point()} == {torch.float32}
    assert len(folded(fast)) == 1
    bare = skiplab.capture(nn.ReLU(), (torch.randn(2, 3),))
    assert faster(bare).tensors == {}


def test_deviation_is_the_largest_difference_of_lesions() -> None:
    torch.manual_seed(0)
    program = skiplab.capture(Tower(), (torch.randn(4, 6, dtype=torch.double),))
    skips, batches = skiplab.find(program).expect(4), samples(5, 3)
    fast = faster(program, torch.bfloat16)
    one, other = (lesion(each, skips, batches[:1], F.cross_entropy)["loss_change"] for each in (program, fast))
    gaps = (one - other).abs()
    assert deviation(program, fast, skips, batches, F.cross_entropy, lesions=4) == gaps.max()
    assert deviation(program, fast, skips, batches, F.cross_entropy, lesions=2) == gaps[[0, 2]].max()
    assert 0 < gaps.max() < 0.05
    assert deviation(program, program, skips, batches, F.cross_entropy) == 0


def test_measures_take_it_instead_of_the_program() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 4, 8, 8)
    program = skiplab.capture(BasicBlock(inplace=True), (x,))
    skips, fast = skiplab.find(program), faster(program, torch.bfloat16)
    for measure in (lesion, estimate):
        one, other = (measure(each, skips, [(x, x)], F.mse_loss)["loss_change"][0] for each in (program, fast))
        assert other == pytest.approx(one, rel=0.01)


def test_training_graphs_are_refused() -> None:
    with pytest.raises(UsageError, match=r"BasicBlock was captured as a training graph, .* without train=True"):
        faster(captured("in_place", train=True).program)


@pytest.mark.parametrize(("able", "dtype"), [({"amx_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)])
def test_the_hardware_decides(able: dict[str, bool], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    program = skiplab.capture(nn.Linear(3, 3), (torch.randn(2, 3),))
    assert faster(program).tensors["p_weight"].dtype == dtype
    assert has_bfloat16_units(torch.device("cpu")) == (dtype == torch.bfloat16)
    assert not has_bfloat16_units(torch.device("meta"))
