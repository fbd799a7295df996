"""Number format and memory format of training."""

from typing import Literal

import torch
from torch import Tensor, nn

from skiplab.training.recipe import Precision


def resolve_precision(precision: Precision, device: torch.device) -> Literal["32-true", "bf16-mixed"]:
    """The number format on a device: "fast" is bfloat16 if the device computes in it natively, else float32.

    Without native support (avx512_bf16 or AMX on a CPU) bfloat16 is emulated and slower than float32.
    """
    if precision != "fast":
        return precision
    return "bf16-mixed" if has_bfloat16_units(device) else "32-true"


def precision_record(precision: Precision, device: torch.device) -> dict[str, str]:
    """The part of a run's identity that depends on the device: the meaning of "fast"."""
    return {"fast": f"{resolve_precision(precision, device)} channels-last"} if precision == "fast" else {}


def channels_last(x: Tensor) -> Tensor:
    """The tensor in channels-last memory format if it has four dimensions (images, kernels), else unchanged."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def to_channels_last(model: nn.Module) -> None:
    """Changes all four-dimensional parameters to channels-last memory format, in place."""
    for parameter in model.parameters():
        parameter.data = channels_last(parameter.data)


def to_contiguous(model: nn.Module) -> None:
    """Changes all parameters to contiguous memory format, in place."""
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 natively: a CPU with AVX-512 BF16 or AMX, or a GPU without emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
