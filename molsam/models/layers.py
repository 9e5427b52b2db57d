"""Layers for molecules of many sizes. Torch only.

Atoms travel *packed*, (A, D), molecule after molecule, so that linear layers never see padding.
Only where the atoms of a molecule meet does a `Layout` scatter them into (B, V, D).

Letters: B molecules, A atoms in all, V atoms in the widest molecule, D width, H heads.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NormName = Literal["layer", "scale"]


class Layout(NamedTuple):
    """Where packed atoms lie when their molecules are padded to one width.

    sizes -> (B,) atoms of each molecule; mask -> (B, V) real atoms; slots -> (A,) rows of the
    atoms in (B * V); home, place -> (A,) the molecule of an atom, its place there; head_slots ->
    (A * H,) rows of the atoms' heads in (B * H * V).
    """

    sizes: Tensor
    mask: Tensor
    slots: Tensor
    home: Tensor
    place: Tensor
    head_slots: Tensor

    @classmethod
    def of(cls, sizes: Tensor, mask: Tensor, slots: Tensor, heads: int) -> Layout:
        """The layout of a batch whose atoms are split into `heads`."""
        width = mask.shape[1]
        home = slots // width
        place = slots - home * width
        block = home[:, None] * heads + torch.arange(heads, device=slots.device)
        head_slots = (block * width + place[:, None]).flatten()
        return cls(sizes, mask, slots, home, place, head_slots)

    def pad(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """(A, ...) -> (B, V, ...), `fill` on padding."""
        rows = x.new_full((self.mask.numel(), *x.shape[1:]), fill)
        return rows.index_copy_(0, self.slots, x).unflatten(0, self.mask.shape)

    def pad_heads(self, x: Tensor) -> Tensor:
        """(A, H, C) -> (B * H, V, C), zeros on padding."""
        rows = x.new_zeros(self.mask.numel() * x.shape[1], x.shape[2])
        rows.index_copy_(0, self.head_slots, x.flatten(0, 1))
        return rows.unflatten(0, (-1, self.mask.shape[1]))

    def pack_heads(self, x: Tensor) -> Tensor:
        """(B * H, V, C) -> (A, H * C), the inverse of `pad_heads`."""
        return x.flatten(0, 1).index_select(0, self.head_slots).view(self.slots.shape[0], -1)


class ScaleNorm(nn.Module):
    """x -> scale * x / ||x||_2 (Nguyen and Salazar 2019, arXiv 1910.05895).

    scale -> one learned scalar, sqrt(D) at the start.
    """

    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(width**0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.normalize(x, dim=-1, eps=1e-5)


def norm(name: NormName, width: int) -> nn.Module:
    """A normalisation of the last dimension by name.

    The published CoMPT divides by std + 1e-6; sqrt(std^2 + 3e-7) is the same to first order for
    the smallest spreads met, about .15, and runs as one kernel.
    """
    return nn.LayerNorm(width, eps=3e-7) if name == "layer" else ScaleNorm(width)


def head(
    inputs: int, width: int, outputs: int, *, layers: int, norm_name: NormName, dropout: float
) -> nn.Sequential:
    """(Linear, Mish, norm, dropout) * (layers - 1), then Linear to one output per task."""
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts += [nn.Linear(inputs, width), nn.Mish(), norm(norm_name, width), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*parts, nn.Linear(inputs, outputs))
