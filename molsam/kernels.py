"""Kernels of molecules: of Morgan counts, and of vectors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse

CELLS = 2**20  # of the kernel at a time: what a cache holds


def min_max_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """k(a, b) = sum_i min(a_i, b_i) / sum_i max(a_i, b_i), the Tanimoto similarity of counts.

    Ralaivola et al., Neural Networks 18 (2005) 1093. a -> (N, K), b -> (M, K) whole counts from 0;
    returns (N, M) float32, 1 where both are all zeros. A count c is written as c ones,
    so that sum min is a product of sparse matrices.
    """
    out = np.empty((len(a), len(b)), dtype=np.float32)
    for rows, block in _min_max_blocks(a, b):
        out[rows] = block
    return out


def nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """max_j k(a_i, b_j), `min_max_kernel` of a (N, K) and b (M, K), M at least 1: (N,) float32."""
    out = np.empty(len(a), dtype=np.float32)
    for rows, block in _min_max_blocks(a, b):
        out[rows] = block.max(axis=1)
    return out


def _min_max_blocks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Some rows after others of `min_max_kernel`."""
    tops = np.maximum(a.max(axis=0, initial=0), b.max(axis=0, initial=0)).astype(np.int64)
    left, right = _unary(a, tops), _unary(b, tops).T.tocsr()
    sizes, others = left.sum(axis=1), right.sum(axis=0)
    step = max(1, CELLS // max(1, len(b)))
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        shared = (left[rows] @ right).toarray()
        union = sizes[rows, None] + others - shared
        yield rows, np.where(union > 0, shared / np.maximum(union, 1), 1)


def _unary(counts: np.ndarray, tops: np.ndarray) -> sparse.csr_array:
    """Each count c of column i as ones in the first c of the `tops[i]` columns that stand for i."""
    rows, columns = np.nonzero(counts)
    times = counts[rows, columns].astype(np.int64)
    within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    starts = np.cumsum(tops) - tops
    places = np.repeat(rows, times), np.repeat(starts[columns], times) + within
    shape = (len(counts), int(tops.sum()))
    return sparse.csr_array((np.ones(len(within), dtype=np.float32), places), shape=shape)


def rbf_kernel(a: np.ndarray, b: np.ndarray, gamma: float) -> np.ndarray:
    """k(a, b) = exp(-gamma |a - b|^2): rows of a (N, K) and b (M, K) to (N, M)."""
    return np.exp(-gamma * squared_distances(a, b))


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a_i - b_j|^2 as |a_i|^2 + |b_j|^2 - 2 a_i . b_j, at least 0: (N, K), (M, K) -> (N, M)."""
    norms = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)
    return np.maximum(norms - 2 * a @ b.T, 0)


def rbf_unit(x: np.ndarray) -> float:
    """1 / (columns x variance), the gamma that rows of x (N, K) ask for: scikit-learn's default."""
    return 1 / (x.shape[1] * max(float(x.var()), 1e-12))
