"""Checksums of tensors, by which saved results recognize the weights they belong to."""

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor


def checksum(tensors: Iterable[Tensor]) -> str:
    """CRC-32 of the tensors' bytes, in order."""
    total = 0
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total = zlib.crc32(flat.view(torch.uint8).numpy().data, total)
    return f"{total:08x}"
