import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from cases import NUMERIC, captured
from networks import Net, around, linear
from skiplab import capture, find
from skiplab.graph.interpreter import Execution
from skiplab.graph.ops import is_concat
from skiplab.measure.contribution import contribution
from skiplab.measure.merge_operands import by_sample, collect_operands, merges_of, pad_stack


@pytest.mark.parametrize("name", NUMERIC)
def test_operands_of_an_addition_add_up_to_the_merge(name: str) -> None:
    """Signs, factors, chains and broadcasting, in every network of the table."""
    case = captured(name)
    program = case.program
    sums: dict[str, Tensor] = {}
    patches = {}
    additions = {n: m for n, m in merges_of(program, case.skips.in_graph()).items() if not is_concat(m.op.target)}
    for merge_name, merge in additions.items():
        patches |= collect_operands(
            program, merge, lambda values, n=merge_name: sums.update({n: torch.stack(values).sum(0)})
        )
    args, kwargs = program.example
    with torch.no_grad():
        execution = Execution(program, args, kwargs, patches=patches).recording(additions)
        execution.finish()
    assert sums.keys() == additions.keys()
    for merge_name, total in sums.items():
        torch.testing.assert_close(total, execution.recorded[merge_name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "join",
    [
        lambda x, f: x - f,
        lambda x, f: f - x,
        lambda x, f: torch.add(x, f, alpha=3),
        lambda x, f: torch.rsub(x, f, alpha=2),
        lambda x, f: x - (f - 2 * torch.tanh(x)),
    ],
)
def test_signs_and_factors_are_operators_before_the_merge(join) -> None:
    """So that what enters an addition is what is added."""
    program = capture(around(join), (torch.randn(2, 8),))
    (merge,) = merges_of(program, find(program)).values()
    sums: list[Tensor] = []
    x = torch.randn(3, 8)
    patches = collect_operands(program, merge, lambda values: sums.append(torch.stack(values).sum(0)))
    with torch.no_grad():
        execution = Execution(program, (x,), patches=patches).recording([merge.op.name])
        execution.finish()
    torch.testing.assert_close(sums[0], execution.recorded[merge.op.name])


def test_samples_lie_where_the_batch_grows() -> None:
    """A block that puts the sequence first has its samples in the second dimension."""
    program = capture(Net(lambda net, x: net.layer(x.transpose(0, 1)), layer=linear()), (torch.randn(3, 5, 8),))
    value = torch.randn(5, 3, 8)
    assert torch.equal(by_sample(program, program.ops[-1], value, 3)[1], value[:, 1].flatten())


def test_windows_of_one_sample_belong_together() -> None:
    program = capture(Net(lambda net, x: net.a(x.reshape(-1, 8)), a=linear()), (torch.randn(5, 2, 8),))
    value = torch.arange(48.0).reshape(6, 8)
    assert by_sample(program, program.ops[-1], value, 3).tolist() == value.reshape(3, 16).tolist()


def test_a_fixed_batch_is_known_by_its_size_alone() -> None:
    """(4, 8) are four samples, and not two of two rows each."""
    program = capture(Net(lambda net, x: net.a(x.reshape(4, 8)), a=linear()), (torch.randn(4, 8),))
    assert not program.dynamic_batch
    assert by_sample(program, program.ops[-1], torch.randn(4, 8), 4).shape == (4, 8)
    assert by_sample(program, program.ops[-1], torch.randn(4, 8), 2).shape == (1, 32)


def test_what_all_samples_share_counts_once() -> None:
    whole, shared = torch.ones(3, 2), torch.zeros(1, 2)
    table = pad_stack([whole, shared])
    assert table.shape == (3, 2, 2)
    assert table[:, 1].isnan().sum() == 4


def test_a_network_that_takes_sequences_first_is_measured_by_sample() -> None:
    """As its twin that takes samples first, on the same numbers."""
    tables = []
    for batch_first in (True, False):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
        model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
        x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
        x = x if batch_first else x.transpose(0, 1)
        program = capture(model, (x,))
        skips = find(program).expect(4)
        tables.append(contribution(program, skips, [(x, None)]).drop(columns="order"))
        assert set(tables[-1]["samples"]) == {3}
    pd.testing.assert_frame_equal(*tables, rtol=1e-4)
