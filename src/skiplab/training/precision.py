"""In which numbers a training computes, and how its pictures lie in memory."""

from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["32-true", "bf16-mixed", "fast"]


def resolve_precision(precision: Precision, device: torch.device) -> Literal["32-true", "bf16-mixed"]:
    """What `fast` is on this device: bfloat16 where it has units for it, else float32; the others are themselves.

    Without such units (avx512_bf16 or AMX on a CPU) bfloat16 is emulated, and slower than float32.
    """
    if precision != "fast":
        return precision
    return "bf16-mixed" if has_bfloat16_units(device) else "32-true"


def precision_record(precision: Precision, device: torch.device) -> dict[str, str]:
    """What makes a run's numbers other ones, beside its recipe: how `fast` is understood here."""
    return {"fast": f"{resolve_precision(precision, device)} channels-last"} if precision == "fast" else {}


def channels_last(x: Tensor) -> Tensor:
    """The same values, with the channels of pictures (N, C, H, W) and of their kernels next to one another."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def to_channels_last(model: nn.Module) -> None:
    """Moves the kernels of two-dimensional convolutions in memory; their values stay."""
    for parameter in model.parameters():
        parameter.data = channels_last(parameter.data)


def to_contiguous(model: nn.Module) -> None:
    """Moves them back."""
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 natively: a CPU with AVX-512 BF16 or AMX, or a GPU without emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
