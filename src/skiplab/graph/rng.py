"""Random numbers drawn from a seed, with torch's random state unchanged afterwards; and those of other generators."""

import operator
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch


@contextmanager
def isolated_rng(seed: int | None = None, device: torch.device | None = None) -> Iterator[None]:
    """Restores torch's random state when the block ends: of the CPU, of the CUDA devices in use, and of `device`.

    Args:
        seed: the block starts from this seed; None continues from the current state.
        device: an accelerator that the block draws on.
    """
    kind = "cuda" if device is None or device.type == "cpu" else device.type
    devices: list[int | torch.device] = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    if kind != "cuda" or (device is not None and device.type == "cuda" and not devices):
        devices = [device]  # type: ignore[list-item]
    with torch.random.fork_rng(devices=devices, device_type=kind):
        if seed is not None:
            reseed(seed, device)
        yield


def reseed(seed: int = 0, device: torch.device | None = None) -> None:
    """Seeds the CPU, the CUDA devices in use, and `device`.

    `torch.manual_seed` would seed every other device too, and a CUDA that starts later.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@contextmanager
def outside_draws() -> Iterator[list[str]]:
    """Collects the names of the random generators outside torch that are used, and restores them."""
    before = {name: get() for name, (get, _, _) in _generators().items()}
    used: list[str] = []
    try:
        yield used
    finally:
        for name, (get, restore, _) in _generators().items():
            if name in before and not _equal(get(), before[name]):
                used.append(name)
                restore(before[name])


@contextmanager
def other_random_numbers(seed: int) -> Iterator[None]:
    """While the block runs, the random generators outside torch start from another seed."""
    with outside_draws():
        for _, _, reseed in _generators().values():
            reseed(seed)
        yield


def _generators() -> dict[str, tuple[Callable[[], Any], Callable[[Any], None], Callable[[int], None]]]:
    """The random generators outside torch: how to get, to set and to seed their state."""
    found: dict[str, Any] = {"Python's `random`": (random.getstate, random.setstate, random.seed)}
    if "numpy" in sys.modules:
        legacy = sys.modules["numpy"].random
        found["`numpy.random`"] = partial(legacy.get_state, legacy=False), legacy.set_state, legacy.seed
    return found


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return all(_equal(a[key], b[key]) for key in a)
    same = operator.eq(a, b)
    return bool(same.all()) if hasattr(same, "all") else bool(same)
