"""The small modules that peft does not have: the bottleneck adapter and the prefix.

Both change nothing before they have learned something.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Bottleneck(nn.Module):
    """x + up(gelu(down(x))), behind each half of a block (Houlsby et al. 2019)."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, width)
        self.up = nn.Linear(width, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return f32 [..., dim]."""
        return states + self.up(functional.gelu(self.down(states)))


class Prefix(nn.Module):
    """Learned keys and values that every event attends to (Li and Liang 2021).

    As in LLaMA-Adapter (Zhang et al. 2023) they have a softmax of their own, so that they take
    nothing from the attention between events; the values start at zero. They have no position.
    """

    def __init__(self, heads: int, length: int, width: int) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.randn(heads, length, width))
        self.value = nn.Parameter(torch.zeros(heads, length, width))

    def forward(self, query: torch.Tensor) -> torch.Tensor:
        """Return what queries [windows, heads, events, width] find, of the same shape."""
        windows = query.shape[0]
        return functional.scaled_dot_product_attention(
            query,
            self.key.expand(windows, -1, -1, -1).to(query.dtype),
            self.value.expand(windows, -1, -1, -1).to(query.dtype),
        )
