"""Vectors over the parameters of a model, and their norms."""
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

LONGEST_SUM = 2**16  # a CPU's float32 sum of 3M squares is off by 6e-5, of these by 1e-7
SMALLEST_NORM = torch.finfo(torch.float32).tiny  # below it, 1 / norm leaves float32


class Direction(NamedTuple):
    """A vector over the parameters: `tensors[p]` for each parameter `p` it reaches, and a norm.

    The perturbation along it is `rho * sign * tensors / norm`, with the global L2 norm.
    """

    tensors: Mapping[Tensor, Tensor]
    norm: float
    sign: float = 1.0

    @classmethod
    def of(cls, tensors: Mapping[Tensor, Tensor]) -> Direction:
        """The vector and its norm, for which the host waits once."""
        return cls(tensors, global_norm(list(tensors.values())))

    @property
    def scale(self) -> float:
        """`sign / norm`; 0 for the zero vector, whose perturbation is zero and not NaN."""
        return self.sign / self.norm if self.norm > SMALLEST_NORM else 0.0

    def clone(self) -> Direction:
        """A copy that no later backward pass overwrites."""
        return self._replace(tensors={p: x.clone() for p, x in self.tensors.items()})


def local(x: Any) -> Tensor:
    """What this process holds of `x`: the shard of a DTensor, all of any other tensor."""
    return x.to_local() if hasattr(x, "to_local") else x


def widest(device: torch.device) -> torch.dtype:
    """float64, which Apple's MPS lacks: there float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def global_norm(tensors: Sequence[Tensor]) -> float:
    """||x||_2 of all `tensors` as one vector, summed in float32 or wider; 0 for no tensors.

    Costs one host synchronisation, however many tensors there are. Of DTensors each process sums
    its shards, and one all-reduce adds up the processes.
    """
    parts = defaultdict(list)
    for x in tensors:
        parts[_groups(x)].append(local(x))
    return math.hypot(*(_norm(shards, groups) for groups, shards in parts.items()))


def dot(a: Mapping[Tensor, Tensor], b: Mapping[Tensor, Tensor]) -> float:
    """The inner product of two vectors, summed in `widest`; what one alone reaches adds 0."""
    parts = defaultdict(list)
    for p in [p for p in a if p in b]:
        x, y = local(a[p]).flatten(), local(b[p]).flatten()
        dtype = widest(x.device)
        parts[_groups(a[p])].append(torch.dot(x.to(dtype), y.to(dtype)))
    return float(sum(_total(sum(products), groups) for groups, products in parts.items()))


def cosine(a: Direction, b: Direction) -> float:
    """Cosine of the angle between two vectors; 0 where one is zero."""
    return dot(a.tensors, b.tensors) * a.scale * b.scale


def _groups(x: Any) -> tuple[Any, ...]:
    """The process groups among which `x` is divided; none where this process holds all of it."""
    if not hasattr(x, "placements"):
        return ()
    cut = [i for i, placement in enumerate(x.placements) if not placement.is_replicate()]
    return tuple(x.device_mesh.get_group(i) for i in cut)


def _total(part: Any, groups: Sequence[Any]) -> Tensor:
    """The sum of every process's `part`, in place."""
    for group in groups:
        torch.distributed.all_reduce(part, group=group)
    return part


def _norm(tensors: Sequence[Tensor], groups: Sequence[Any]) -> float:
    dtype = reduce(torch.promote_types, {x.dtype for x in tensors}, torch.float32)
    norm = torch.zeros((), dtype=dtype, device=tensors[0].device)
    pieces = [piece for x in tensors for piece in _pieces(x)]
    if pieces:
        norms = torch._foreach_norm(pieces, 2, dtype=dtype)
        norm = torch.linalg.vector_norm(torch.stack([x.to(norm.device) for x in norms]))
    if not groups:
        return norm.item()
    return _total(norm.to(widest(norm.device)).square(), groups).sqrt().item()


def _pieces(x: Tensor) -> Sequence[Tensor]:
    # CUDA before torch 2.6 mixes up the norms where a list has empty tensors: leave them out.
    if x.numel() <= LONGEST_SUM:
        return (x,) if x.numel() else ()
    return x.flatten().split(LONGEST_SUM)
