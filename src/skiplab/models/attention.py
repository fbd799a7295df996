"""Multi-head attention with torch's parameter names; projections of one value are one matrix product."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.errors import UsageError


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762, §3.2), like `nn.MultiheadAttention`.

    Queries come from `x` (N, T, width); keys and values from `memory` (N, S, width), or from `x` if there is none. The
    output is (N, T, width). `causal`: step t attends to steps up to t. `dropout` acts on the attention weights.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, causal: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise UsageError(f"heads={heads} do not divide width={width}: choose heads such that they do")
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        if memory is None:
            q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            asks = self.out_proj.in_features
            q = F.linear(x, self.in_proj_weight[:asks], self.in_proj_bias[:asks])
            k, v = F.linear(memory, self.in_proj_weight[asks:], self.in_proj_bias[asks:]).chunk(2, -1)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        met = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=self.causal)
        return self.out_proj(met.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        return f"heads={self.heads}, dropout={self.dropout}, causal={self.causal}"
