"""Random numbers of a block's own."""

import torch

from skiplab.graph.rng import isolated_rng, reseed


def test_a_seed_gives_the_numbers_of_manual_seed() -> None:
    with isolated_rng(7):
        mine = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(mine, torch.rand(3))


def test_without_a_seed_the_numbers_go_on() -> None:
    torch.manual_seed(1)
    with isolated_rng():
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), inside)


def test_the_state_comes_back_after_an_error_too() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    try:
        with isolated_rng(3):
            torch.rand(100)
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert torch.equal(torch.rand(3), expected)


def test_a_cpu_as_device_is_nothing_more() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with isolated_rng(5, torch.device("cpu")):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_cuda_to_come_is_seeded() -> None:
    waiting = list(torch.cuda._lazy_seed_tracker.get_calls())
    with isolated_rng(2):
        reseed(4)
    assert list(torch.cuda._lazy_seed_tracker.get_calls()) == waiting
