"""What is left of a GATv2 layer without its attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class LinearMaps(nn.Module):
    """The two linear maps of a GATv2 layer and nothing else: what is left without attention."""

    def __init__(
        self, in_channels: int, out_channels: int, heads: int = 1, concat: bool = True
    ) -> None:
        super().__init__()
        self.shape = (heads, out_channels)
        self.concat = concat
        self.lin_l = nn.Linear(in_channels, heads * out_channels)
        self.lin_r = nn.Linear(in_channels, heads * out_channels)

    def forward(self, x: Tensor, edges: Any) -> Tensor:
        """``lin_l(x) + lin_r(x)``; ``edges`` are not looked at."""
        out = self.lin_l(x) + self.lin_r(x)
        return out if self.concat else out.unflatten(1, self.shape).mean(dim=1)
