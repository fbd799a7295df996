"""The kernels that torch runs operators with."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from skiplab.graph.program import Program


@contextmanager
def unfused_kernels(program: Program) -> Iterator[None]:
    """Runs attention and recurrent operators as their matrix products.

    Their fused kernels have no second derivative and no tangents, and torch's FLOP counter does not know some of
    them. oneDNN and cuDNN are switched off only for a program with a recurrent operator.
    """
    with sdpa_kernel(SDPBackend.MATH):
        if not any(op.kind == "recurrent" for op in program.ops):
            yield
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about how oneDNN is switched off
            with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
                yield
