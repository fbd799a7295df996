import pytest
import torch
from torch import Tensor, nn

import skiplab
from cases import captured
from networks import around
from skiplab.data.bound_batches import BoundBatch, validate_batches
from skiplab.errors import DataError
from skiplab.graph.program import Program
from skiplab.measure import contribution, lengths
from skiplab.measure.batches import finite, map_batches


@pytest.fixture(scope="module")
def program() -> Program:
    return skiplab.capture(around(lambda x, f: x + f), (torch.randn(4, 8),))


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(n, 8), torch.arange(n)) for n in sizes]


def needing(memory: int, seen: list[int]):
    """Work that runs out of memory above so many samples."""

    def work(given: BoundBatch) -> int:
        if given.size > memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.append(given.size)
        return given.size

    return work


def test_batches_that_fill_the_memory_are_halved_and_so_are_all_after_them(program: Program) -> None:
    seen: list[int] = []
    with pytest.warns(UserWarning, match="does not fit into memory: continuing with") as warned:
        results = list(map_batches(program, batches(9, 7), needing(2, seen)))
    assert sum(seen) == 16
    assert max(seen) == 2
    assert [size for _, size in results] == seen
    assert torch.equal(torch.cat([g.target for g, _ in results]), torch.cat([torch.arange(9), torch.arange(7)]))
    assert len(warned) == 2  # 9 → 4 → 2


def test_one_sample_that_does_not_fit(program: Program) -> None:
    with (
        pytest.warns(UserWarning, match="continuing with 1"),
        pytest.raises(DataError, match="one sample does not fit into memory"),
    ):
        list(map_batches(program, batches(2), needing(0, [])))


def test_what_torch_says_when_a_cpus_memory_ends(program: Program) -> None:
    def work(given: BoundBatch) -> int:
        if given.size > 1:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you …"
            )
        return given.size

    with pytest.warns(UserWarning, match="a batch of 2 samples does not fit into memory: continuing with 1"):
        assert [size for _, size in map_batches(program, batches(2), work)] == [1, 1]


def test_other_errors_are_left_alone(program: Program) -> None:
    def work(_: BoundBatch) -> int:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(map_batches(program, batches(2), work))


def test_largest(program: Program) -> None:
    assert [g.size for g, _ in map_batches(program, batches(5, 2), lambda g: g.size, largest=3)] == [3, 2, 2]


def test_inputs_by_keyword() -> None:
    case = captured("keywords")
    args, kwargs = case.program.example
    assert kwargs
    (given,) = validate_batches(case.program, [((*args, kwargs), None)])
    assert len(given.args) == len(args) == 1
    assert given.kwargs.keys() == kwargs.keys()
    assert len(contribution(case.program, case.skips, [((*args, kwargs), None)])) == len(case.skips)
    program = skiplab.capture(Doubled(), (), {"x": torch.randn(2, 8)})
    (given,) = validate_batches(program, [({"x": torch.randn(3, 8)}, None)])
    assert (given.args, given.size) == ((), 3)


class Doubled(nn.Module):
    def forward(self, *, x: Tensor) -> Tensor:
        return 2 * x


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x + self.branch(mask @ x)


def test_an_input_that_all_samples_share_is_not_cut() -> None:
    """Even where a batch happens to have as many samples as it has rows."""
    mask = torch.rand(6, 6)
    program = skiplab.capture(Masked(), (torch.randn(2, 6, 8), mask))
    (given,) = validate_batches(program, [((torch.randn(6, 6, 8), mask), None)])
    part = given.part(0, 3)
    assert [len(value) for value in part.args] == [3, 6]
    table = lengths(program, skiplab.find(program), [(given.inputs, None)], lambda o, _: o.square().mean())
    assert table["samples"].unique().tolist() == [6]


def test_sequences_first_are_told_by_their_targets(program: Program) -> None:
    with pytest.raises(DataError, match="batch 1 has 12 targets for 4 samples: the first dimension of the target"):
        list(validate_batches(program, [(torch.randn(4, 8), torch.zeros(12))]))


def test_an_empty_batch(program: Program) -> None:
    with pytest.raises(DataError, match="batch 2 has no samples"):
        list(validate_batches(program, batches(3, 0)))


def test_inputs_of_inference_mode_can_be_differentiated(program: Program) -> None:
    with torch.inference_mode():
        x = torch.randn(3, 8)
    table = lengths(program, skiplab.find(program), [(x, None)], lambda o, _: o.square().mean())
    assert table["share"].sum() == pytest.approx(1, rel=1e-5)


def test_only_what_has_one_entry_a_sample_is_cut() -> None:
    table = torch.randn(7, 2)
    given = BoundBatch((torch.arange(4), table), {"scale": 2.0}, torch.arange(4), 4)
    part = given.part(1, 3)
    assert part.args[0].tolist() == part.target.tolist() == [1, 2]
    assert part.args[1] is table
    assert part.kwargs == {"scale": 2.0}
    assert part.size == 2


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.randn(2, 8), "batch 1 is not a pair"),
        ((torch.randn(2, 7), None), r"batch 1 has an input of shape \(2, 7\); Net was captured with \('any', 8\)"),
        ((torch.randint(5, (2, 8)), None), "batch 1 has an input of torch.int64; Net was captured with"),
        (((torch.randn(2, 8), torch.randn(2, 8)), None), r"batch 1: Net takes \(tensor\) as captured"),
        (({"y": torch.randn(2, 8)}, None), "batch 1 has an input of type dict; Net takes a tensor"),
    ],
)
def test_what_the_program_cannot_take(program: Program, batch: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(validate_batches(program, iter([batch])))  # type: ignore[list-item]


class Layers(nn.Module):
    """x + F(x) with a function of the test's in the branch, and a masked softmax that does no harm."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.arange(8) > 3
        weights = self.first(x).masked_fill(mask, -torch.inf).softmax(-1)
        return x + self.second(self.function(weights))


def blamed(function, x: Tensor) -> str:
    program = skiplab.capture(Layers(function), (torch.rand(2, 8),))
    (given,) = validate_batches(program, [(x, None)])
    with pytest.raises(DataError) as caught:
        finite(program, given, torch.tensor(torch.nan), "the loss")
    return str(caught.value)


def test_the_layer_that_nan_comes_from() -> None:
    """Not the minus infinities of the mask, of which softmax makes zeros."""
    text = blamed(lambda w: torch.log(w - 1), torch.rand(2, 8))
    assert "the loss is nan: the first NaN arises in" in text
    assert "operator log" in text
    assert "test_batches.py:" in text


def test_an_overflow_that_becomes_nan_later() -> None:
    text = blamed(lambda w: torch.exp(1000 * (w + 1)) * 0, torch.rand(2, 8))
    assert "the first infinity arises in" in text
    assert "operator exp" in text
    assert "becomes NaN in" in text


def test_data_and_weights_that_hold_nan() -> None:
    x = torch.rand(3, 8)
    x[1, 4] = torch.nan
    assert "input 0 holds NaN or infinity in sample 1 of the batch" in blamed(torch.tanh, x)
    model = Layers(torch.tanh)
    model.second.weight.data[0, 0] = torch.inf
    program = skiplab.capture(model, (torch.rand(2, 8),))
    (given,) = validate_batches(program, [(torch.rand(2, 8), None)])
    with pytest.raises(DataError, match=r"the weight `second.weight` holds NaN or infinity"):
        finite(program, given, torch.tensor([1.0, torch.inf]), "the loss")


def test_a_loss_of_ones_own() -> None:
    assert "the network's outputs are finite" in blamed(torch.tanh, torch.rand(2, 8))
