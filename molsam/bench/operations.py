"""How much arithmetic a training step is, and how much the machine can do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..batches import Batch
from ..models import CoMPT, GraphTransformer
from .racing import Entrant

SQUARES = (512, 1024, 2048)


def operations(model: CoMPT | GraphTransformer, batch: Batch) -> int:
    """Floating point operations of the matrix products of one gradient, on real atoms alone.

    3 sum of 2 n i o  over the linear layers (n rows, i inputs, o outputs), less 2 n i o for each
    layer that reads features, which need no gradient;  and of the attention of each layer,
    CoMPT:  3 (2 A K H D + 2 K D^2 + 2 D sum V^2);  GraphTransformer:  3 (4 D sum V^2).

    A -> atoms; K -> rows of `batch.bonds`; H -> heads; V -> atoms of a molecule; D -> width; a
    GRU is two linear layers D to 3D in each direction. What CoMPT saves by folding its queries
    into its keys is not done and not counted (where H K > D they are not folded: a linear layer
    D to D and 2 A K D). Nor is what padding costs, nor anything that is no matrix product.
    """
    config = model.config
    A, K, D = len(batch.atoms), len(batch.bonds), config.width
    pairs = int((batch.sizes**2).sum())
    atoms = _linear(A, model.atom_size, D)
    if isinstance(model, CoMPT):
        bonds = _linear(K, model.bond_size, D)
        linear = 3 * _linear(A, D, D) + _linear(K, D, D)
        H = config.heads
        table = _linear(K, D, D) + _linear(A, D, H * K)
        if H * K > D:
            table = _linear(A, D, D) + _linear(A, D, K)
        attention = table + 2 * D * pairs
    else:
        bonds = _linear(K, model.bond_size, config.heads)
        linear = 4 * _linear(A, D, D) + 2 * _linear(A, D, model.config.feed_forward)
        attention = 4 * D * pairs
    layers = config.depth * (linear + attention)
    read = atoms + bonds + _linear(len(batch), model.fingerprint_size, D)
    return 2 * read + 3 * (layers + _readout(model, A) + _head(model, len(batch)))


def _linear(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


def _readout(model: CoMPT | GraphTransformer, atoms: int) -> int:
    width = model.config.width
    if model.config.readout != "gru":
        return 0
    return 4 * _linear(atoms, width, 3 * width) + _linear(atoms, 2 * width, width)


def _head(model: CoMPT | GraphTransformer, count: int) -> int:
    sizes = [model.embed_size, *[model.config.head_size] * (model.config.head_layers - 1)]
    ends = zip(sizes, [*sizes[1:], model.outputs], strict=True)
    return sum(_linear(count, inputs, outputs) for inputs, outputs in ends)


class SquareProduct(Entrant):
    """Products of two square float32 matrices: what the machine can do at best."""

    def __init__(self, size: int, device: torch.device) -> None:
        super().__init__(f"{size} x {size}", device)
        self.size = size
        self.a, self.b, self.out = (torch.ones(size, size, device=device) for _ in range(3))

    def step(self, item: object) -> None:
        torch.mm(self.a, self.b, out=self.out)


def peak(products: Sequence[SquareProduct], steps: int) -> np.ndarray:
    """GFLOP/s of each round of `steps` steps: the best of the sizes."""
    rates = [2e-9 * p.size**3 * steps / np.array(p.seconds) for p in products]
    return np.max(rates, axis=0)
