from typing import Any

import torch
from torch import Tensor

import skiplab
from networks import Net, heavy
from skiplab.verification.random_inputs import Doubled, direction, double_weights, draw


def drawn(example: Tensor, attempt: int = 0, seed: int = 0) -> Tensor:
    (value,), _ = draw(((example,), {}), torch.Generator().manual_seed(seed), attempt)
    return value


def test_real_inputs_are_normal_with_the_example_s_deviation() -> None:
    value = drawn(5 * torch.randn(100, 100) + 1)
    assert value.dtype == torch.float64
    assert value.shape == (100, 100)
    assert 4.8 < float(value.std()) < 5.2
    assert -0.3 < float(value.mean()) < 0.3
    assert not torch.equal(value, drawn(5 * torch.randn(100, 100), seed=1))


def test_what_is_not_negative_stays_so() -> None:
    assert float(drawn(torch.rand(100)).min()) >= 0


def test_a_constant_example_is_no_constant_point() -> None:
    assert float(drawn(torch.zeros(100)).std()) > 0.5
    assert float(drawn(torch.full((100,), 7.0)).std()) > 3


def test_codes_and_masks_are_shuffled() -> None:
    codes = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0])
    assert sorted(drawn(codes).tolist()) == sorted(codes.tolist())
    assert sorted(drawn(codes.long()).tolist()) == sorted(codes.long().tolist())


def test_integers_stay_in_the_example_s_range() -> None:
    value = drawn(torch.arange(3, 40))
    assert value.dtype == torch.int64
    assert 3 <= int(value.min()) <= int(value.max()) < 40
    assert drawn(torch.arange(9, dtype=torch.uint8)).dtype == torch.uint8


def test_truth_values_and_infinities_stay() -> None:
    truth = torch.tensor([True, False])
    assert drawn(truth) is truth
    mask = torch.tensor([0.0, -torch.inf])
    assert torch.equal(drawn(mask), mask.double())


def test_later_attempts_come_nearer_to_the_example() -> None:
    example, ids = torch.randn(1000) + 10, torch.arange(9)
    gaps = [float((drawn(example, attempt) - example).abs().mean()) for attempt in range(3)]
    assert gaps[0] > 5
    assert 0.05 < gaps[1] < 0.15
    assert 0.005 < gaps[2] < 0.015
    assert torch.equal(drawn(ids, 1), ids)


def test_what_is_no_tensor_stays() -> None:
    example = ((torch.zeros(2), 3, None), {"mask": torch.ones(2, dtype=torch.bool), "name": "a"})
    args, kwargs = draw(example, torch.Generator(), 0)
    assert args[1:] == (3, None)
    assert kwargs["name"] == "a"


def test_directions_have_the_value_s_size_and_no_zeros() -> None:
    generator = torch.Generator().manual_seed(0)
    value = 1e6 * torch.randn(50, dtype=torch.float64)
    u = direction(value, generator)
    assert len(u.unique()) == 50
    assert 1e5 < float(u.abs().max()) < 1e8
    assert float(direction(torch.zeros(3, dtype=torch.float64), generator).abs().min()) > 0
    assert direction(torch.zeros(3, dtype=torch.complex128), generator).is_complex()


def test_every_value_is_double_and_the_result_the_network_s() -> None:
    def forward(net: Any, x: Tensor) -> tuple[Tensor, ...]:
        y = net.f(x.half().float()) + torch.ones(8, dtype=torch.bfloat16)
        z = torch.full_like(y, 2, dtype=torch.float32) * torch.arange(8, dtype=torch.float32)
        return y, z, torch.complex(y, z).abs(), torch.zeros(3, dtype=torch.complex64)

    net = Net(forward, f=heavy())
    program = skiplab.capture(net, (torch.randn(3, 8),))
    x = torch.randn(3, 8).double()
    names = {node.name for node in program.graph.graph.nodes if node.op == "call_function"}
    passed = Doubled(program, ((x,), {}), names, double_weights(program))
    with torch.no_grad():
        passed.finish()
        y = net.double().get_submodule("f")(x) + 1
    for value in filter(torch.is_tensor, passed.recorded.values()):  # an assertion has no value
        assert value.dtype in (torch.float64, torch.complex128)
    torch.testing.assert_close(passed.output[0], y)
