"""Batches of random graphs with random features, single atoms and salts among them."""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from molsam.batches import Batch

ATOM, BOND, OUTPUTS = 11, 5, 3
SIZES = (7, 1, 4, 12, 2, 1, 9)


def shortest_paths(joined: Tensor) -> Tensor:
    """(V, V) bool -> (V, V) int64, -1 where there is no path."""
    n = len(joined)
    d = torch.where(joined, 1, 10_000)
    d.fill_diagonal_(0)
    for k in range(n):
        d = torch.minimum(d, d[:, k, None] + d[None, k])
    return d.masked_fill(d >= 10_000, -1)


def random_batch(sizes=SIZES, *, kinds: int = 6, descriptors: int = 0, seed: int = 0) -> Batch:
    """Random trees with a few rings; every third molecule of four atoms or more in two parts."""
    g = torch.Generator().manual_seed(seed)
    b, v = len(sizes), max(sizes)
    codes, distance = torch.zeros(b, v, v, dtype=torch.long), -torch.ones(b, v, v, dtype=torch.long)
    for m, n in enumerate(sizes):
        cut = n // 2 if m % 3 == 0 and n >= 4 else 0
        for i in range(1, n):
            if i == cut:
                continue
            lowest = cut if i > cut else 0
            for _ in range(2):
                j = int(torch.randint(lowest, i, (1,), generator=g))
                codes[m, i, j] = codes[m, j, i] = int(torch.randint(1, kinds, (1,), generator=g))
        distance[m, :n, :n] = shortest_paths(codes[m, :n, :n] > 0)
    lengths = torch.tensor(sizes)
    return Batch(
        atoms=torch.randn(sum(sizes), ATOM, generator=g),
        sizes=lengths,
        bonds=torch.cat([torch.zeros(1, BOND), torch.randn(kinds - 1, BOND, generator=g)]),
        pair_codes=codes,
        distance=distance,
        mask=torch.arange(v) < lengths[:, None],
        descriptors=torch.randn(b, descriptors, generator=g),
        y=torch.randn(b, OUTPUTS, generator=g),
        label_mask=torch.ones(b, OUTPUTS, dtype=torch.bool),
    )


def to_double(batch: Batch) -> Batch:
    return map_floats(batch, torch.Tensor.double)


def map_floats(batch: Batch, change) -> Batch:
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return Batch(**{k: change(t) if t.is_floating_point() else t for k, t in tensors.items()})


def take(batch: Batch, index: list[int]) -> Batch:
    """Some molecules of a batch, in that order, padded to the widest of them."""
    atoms = batch.atoms.split(batch.sizes.tolist())
    sizes = batch.sizes[index]
    v = int(sizes.max())
    return replace(
        batch,
        atoms=torch.cat([atoms[i] for i in index]),
        sizes=sizes,
        pair_codes=batch.pair_codes[index][:, :v, :v],
        distance=batch.distance[index][:, :v, :v],
        mask=batch.mask[index][:, :v],
        descriptors=batch.descriptors[index],
        y=batch.y[index],
        label_mask=batch.label_mask[index],
    )


def shuffle_atoms(batch: Batch, seed: int = 0) -> Batch:
    """The same molecules with their atoms in another order."""
    g = torch.Generator().manual_seed(seed)
    atoms = []
    codes, distance = batch.pair_codes.clone(), batch.distance.clone()
    for m, rows in enumerate(batch.atoms.split(batch.sizes.tolist())):
        order = torch.randperm(len(rows), generator=g)
        atoms.append(rows[order])
        for pairs in (codes, distance):
            pairs[m, : len(rows), : len(rows)] = pairs[m][order][:, order]
    return replace(batch, atoms=torch.cat(atoms), pair_codes=codes, distance=distance)
