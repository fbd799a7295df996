"""Random numbers drawn from a seed, with torch's random state unchanged afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

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
