import importlib
import itertools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import skiplab
from cases import captured, state
from networks import Highway, Net, heavy, linear
from oracles.drawn import drawn
from skiplab.errors import DataError, StaleSkip, UsageError
from skiplab.measure.cost import cost

module = importlib.import_module("skiplab.measure.cost")  # the package's attribute of this name is the function

COLUMNS = """id order samples held_bytes held_ops byte_ops peak_share branch_flops shortcut_flops branch_parameters
 branch_ms branch_ms_median shortcut_ms shortcut_ms_median share_of_time""".split()
FLOAT = 4


def wide() -> nn.Sequential:
    return nn.Sequential(linear(10, 40), nn.ReLU(), linear(40, 10))


def test_two_blocks_by_hand() -> None:
    """Each holds its x, ten floats, while ReLU, second layer and addition run; the peak is met twice."""
    model = nn.Sequential(*(Net(lambda net, x: x + net.f(x), f=wide()) for _ in range(2)))
    x = torch.randn(3, 10)
    program = skiplab.capture(model, (x,))
    table = cost(program, skiplab.find(program).expect(2), [(x, None)])
    assert list(table) == COLUMNS
    assert table["held_bytes"].tolist() == [10 * FLOAT] * 2
    assert table["held_ops"].tolist() == [3] * 2
    assert table["byte_ops"].tolist() == [3 * 10 * FLOAT] * 2
    assert table["peak_share"].tolist() == [0, 0]
    assert table["branch_flops"].tolist() == [2 * (10 * 40 + 40 * 10)] * 2
    assert table["branch_parameters"].tolist() == [10 * 40 + 40 + 40 * 10 + 10] * 2
    assert set(table["samples"]) == {3}


def test_the_peak_of_one_block_by_hand() -> None:
    """x, and twice forty floats around the ReLU: a ninth of it is x."""
    x = torch.randn(3, 10)
    program = skiplab.capture(Net(lambda net, x: x + net.f(x), f=wide()), (x,))
    assert cost(program, skiplab.find(program), [(x, None)])["peak_share"][0] == pytest.approx(1 / 9)


def test_long_skips_by_hand() -> None:
    """What waits for the U-Net's merges, through convolution, norm and ReLU thrice, pooling, and two upsamplings."""
    case = captured("unet")
    table = cost(case.program, case.skips, drawn(case.program, 2))
    assert table["held_bytes"].tolist() == [4 * 4 * 4 * FLOAT, 4 * 8 * 8 * FLOAT]
    assert table["held_ops"].tolist() == [3 + 1 + 1, 3 + 1 + 3 + 1 + 1 + 3 + 1 + 1]
    assert table["byte_ops"].tolist() == (table["held_bytes"] * table["held_ops"]).tolist()


@pytest.mark.parametrize(
    ("function", "most", "ops", "total"),
    [
        (lambda net, x: net.p(x) + net.f(x), 1, 5, 5),  # its value waits while it is made, and three layers and the sum
        (lambda net, x: net.f(x) + net.p(x), 2, 4, 5),  # x waits for the projection, and lies beside its value there
    ],
)
def test_a_projection_waits_itself_or_lets_the_fork_wait(function: object, most: int, ops: int, total: int) -> None:
    program = skiplab.capture(Net(function, f=heavy(), p=linear()), (torch.randn(3, 8),))  # type: ignore[arg-type]
    table = cost(program, skiplab.find(program).expect(1), [(torch.randn(3, 8), None)])
    assert table[["held_bytes", "held_ops", "byte_ops"]].iloc[0].tolist() == [most * 8 * FLOAT, ops, total * 8 * FLOAT]


def test_what_others_need_too_is_not_held() -> None:
    """A dense block's values are read again by its last concatenation: the skips into the others keep none alive."""
    case = captured("dense_block")
    table = cost(case.program, case.skips, drawn(case.program, 2))
    inner = table["order"] < table["order"].max()
    assert inner.sum() == 6
    assert (table["held_bytes"] > 0).tolist() == (~inner).tolist()
    assert (table["peak_share"] > 0).tolist() == (~inner).tolist()


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3, 2, 1)
        )
        self.shortcut = nn.Conv2d(3, 4, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.branch(x) + self.shortcut(x)


class Attended(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.shortcut = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


@pytest.mark.parametrize(("build", "shape"), [(Convolved, (3, 9, 9)), (Attended, (5, 8))])
def test_work_against_torchs_counter_on_the_modules_alone(build: type[nn.Module], shape: tuple[int, ...]) -> None:
    model, x = build(), torch.randn(4, *shape)
    program = skiplab.capture(model, (x,))
    row = cost(program, skiplab.find(program), [(x, None)]).iloc[-1]
    for way in ("branch", "shortcut"):
        module_ = getattr(model, way).train()  # in training mode attention is no single fused operator
        with (
            FlopCounterMode(display=False) as counter,
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        ):
            module_(x[:1].requires_grad_())
        assert row[f"{way}_flops"] == counter.get_total_flops()
    assert row["branch_parameters"] == sum(p.numel() for p in model.branch.parameters())  # type: ignore[union-attr, operator]


def test_work_of_a_fused_recurrent_operator() -> None:
    """Four gates a step, of input and state each."""
    case = captured("lstm")
    table = cost(case.program, case.skips.in_graph(), drawn(case.program, 2))
    assert table["branch_flops"][0] == 5 * 4 * 2 * (8 * 8 + 8 * 8)


def test_gates_that_both_ways_need_count_for_the_branch() -> None:
    program = skiplab.capture(Highway(), (torch.randn(3, 8),))
    row = cost(program, skiplab.find(program), [(torch.randn(3, 8), None)]).iloc[0]
    assert [row["branch_flops"], row["shortcut_flops"]] == [2 * 2 * 8 * 8, 0]
    assert row["branch_parameters"] == 2 * (8 * 8 + 8)


def test_time_by_a_clock_that_ticks_once_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then every node takes a second in its first pass, two in its next, and so on, of which the first is left out."""
    program = skiplab.capture(Net(lambda net, x: net.p(x) + net.f(x), f=heavy(), p=linear()), (torch.randn(3, 8),))
    skips = skiplab.find(program)
    looks, nodes = itertools.count(), len(program.nodes)
    now = [0]

    def clock() -> float:
        now[0] += 1 + next(looks) // (2 * nodes)
        return float(now[0])

    monkeypatch.setattr(module.time, "perf_counter", clock)
    row = cost(program, skips, [(torch.randn(3, 8), None)], repeats=3).iloc[0]
    times = [row[c] for c in ("branch_ms", "branch_ms_median", "shortcut_ms", "shortcut_ms_median")]
    assert times == [3 * 2000, 3 * 3000, 2000, 3000]
    assert row["share_of_time"] == pytest.approx(3 / nodes)


@pytest.mark.parametrize("name", ["resnet20", "unet", "bert", "written_lstm", "t5", "res2net"])
def test_networks(name: str) -> None:
    case = captured(name)
    before = state(case.model)
    table = cost(case.program, case.skips, drawn(case.program, 2), repeats=2)
    assert state(case.model) == before
    assert table["id"].tolist() == [skip.id for skip in case.skips]
    assert (table["branch_flops"] > table["shortcut_flops"]).all()
    assert (table["branch_ms"] <= table["branch_ms_median"]).all()
    assert table["share_of_time"].between(0, 1, inclusive="neither").all()
    assert table["held_bytes"].max() > 0


def test_what_it_refuses() -> None:
    case = captured("block")
    with pytest.raises(UsageError, match="repeats must be at least 1, got 0"):
        cost(case.program, case.skips, [(torch.randn(3, 8), None)], repeats=0)
    with pytest.raises(DataError, match="no batches"):
        cost(case.program, case.skips, [])
    with pytest.raises(StaleSkip):
        cost(captured("unet").program, case.skips, [])
    with pytest.raises(UsageError, match="leave such skips out"):
        cost(captured("lstm").program, captured("lstm").skips, [])
