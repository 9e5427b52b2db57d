"""From atom states to molecule vectors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .gru import packed_gru
from .layers import Layout
from .mish import mish

ReadoutName = Literal["gru", "mean", "sum"]


class PoolReadout(nn.Module):
    """Molecule vectors (B, D): the sum or mean of atom states (A, D), whatever their order."""

    def __init__(self, mean: bool):
        super().__init__()
        self.mean = mean

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        total = layout.pad(x).sum(1)
        return total / layout.sizes[:, None] if self.mean else total


class GRUReadout(nn.Module):
    """Molecule vectors (B, D) from a recurrent pass over the atoms in their canonical order.

    h_0 = max_i Mish(x_i + b);  y_i = BiGRU(x; h_0)_i;  m = mean_i Mish(W y_i + c)

    x -> atom states (A, D), b -> `bias`, W and c -> `linear`; both directions start from h_0.
    Deviation: the published code also reads padding; here each molecule ends at its last atom.
    """

    def __init__(self, width: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))
        self.gru = nn.GRU(width, width, bidirectional=True)
        self.linear = nn.Linear(2 * width, width)
        self.mean = PoolReadout(mean=True)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        start = layout.pad(mish(x + self.bias), float("-inf")).amax(1)
        y = packed_gru(self.gru, x, start, layout.sizes)
        return self.mean(mish(self.linear(y)), layout)


def readout(name: ReadoutName, width: int) -> nn.Module:
    """A readout by name: atom states (A, D) and their layout -> molecule vectors (B, D)."""
    return GRUReadout(width) if name == "gru" else PoolReadout(mean=name == "mean")
