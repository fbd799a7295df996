"""Which of its kernels torch runs an operator with."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from skiplab.graph.program import Program


@contextmanager
def plain(program: Program) -> Iterator[None]:
    """Attention and recurrent operators are run as the matrix products of which they are made.

    Their fused kernels have no second derivative and no tangents, and torch's counter of operations does not know
    some of them. What else oneDNN or cuDNN would do is done without them only in a program that has a recurrent one.
    """
    with sdpa_kernel(SDPBackend.MATH):
        if not any(op.kind == "recurrent" for op in program.ops):
            yield
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of how oneDNN is switched off, and no concern of the user's
            with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
                yield
