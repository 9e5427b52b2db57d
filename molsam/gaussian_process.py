"""A Gaussian process on Morgan counts: what a molecule's neighbours say, in closed form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from .files import load_state, save_state
from .metrics import METRICS, score

NOISES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # variance of the noise, in those of the kernel
MOST_ROWS = 8192  # then a matrix is half a gigabyte, of which there are a few
SHARES = tuple(k / 10 for k in range(11))
TINY = 1e-6  # the least probability of a class
BLOCK = 1024


def min_max_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """k(a, b) = sum_i min(a_i, b_i) / sum_i max(a_i, b_i), the Tanimoto similarity of counts.

    Ralaivola et al., Neural Networks 18 (2005) 1093. a -> (N, K), b -> (M, K) whole counts from 0;
    returns (N, M) float32, 1 where both are all zeros. A count c is written as c ones,
    so that sum min is a product of sparse matrices, made in blocks of `BLOCK` rows.
    """
    tops = np.maximum(a.max(axis=0, initial=0), b.max(axis=0, initial=0)).astype(np.int64)
    left, right = _unary(a, tops), _unary(b, tops).T.tocsr()
    sizes, others = left.sum(axis=1), right.sum(axis=0)
    out = np.empty((len(a), len(b)), dtype=np.float32)
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        shared = (left[rows] @ right).toarray()
        union = sizes[rows, None] + others - shared
        out[rows] = np.where(union > 0, shared / np.maximum(union, 1), 1)
    return out


def _unary(counts: np.ndarray, tops: np.ndarray) -> sparse.csr_array:
    """Each count c of column i as ones in the first c of the `tops[i]` columns that stand for i."""
    rows, columns = np.nonzero(counts)
    times = counts[rows, columns].astype(np.int64)
    within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    starts = np.cumsum(tops) - tops
    places = np.repeat(rows, times), np.repeat(starts[columns], times) + within
    shape = (len(counts), int(tops.sum()))
    return sparse.csr_array((np.ones(len(within), dtype=np.float32), places), shape=shape)


@dataclass(frozen=True)
class GaussianProcess:
    """The mean of a Gaussian process with the min-max kernel k on Morgan counts.

    f(x) = m + sum_i k(x, x_i) alpha_i,  alpha = (K + s I)^-1 (y - m),  K_ij = k(x_i, x_j)

    Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), equation 2.25; the
    kernel of molecules is `min_max_kernel`. A class is regressed on as 0 or 1, and f kept between.

    Attributes
    ----------
    counts : (n, 2048) of the training molecules.
    alpha : (n, C), 0 where a label is missing; a column for each task, of more than two classes
        for each class of each task.
    center : (C,) m, the mean of the labels.
    classes : how many there are; 0 for regression.
    share : of a prediction that is made with models, from 0 to 1; they have the rest.
    """

    counts: np.ndarray
    alpha: np.ndarray
    center: np.ndarray
    classes: int = 0
    share: float = 1.0

    @classmethod
    def fit(cls, counts: np.ndarray, y: np.ndarray, classes: int = 0) -> GaussianProcess:
        """From counts (n, 2048) and labels (n, T), NaN where missing; one at least of each task.

        The noise s is that of `NOISES` whose leave-one-out error is least, for each column alone.
        """
        y = np.asarray(y, dtype=np.float64)
        if classes > 2:
            each = np.where(np.isnan(y)[..., None], np.nan, y[..., None] == np.arange(classes))
            y = each.reshape(len(y), -1)
        kernel = min_max_kernel(counts, counts).astype(np.float64)
        center, alpha = np.nanmean(y, axis=0), np.zeros(y.shape)
        patterns, which = np.unique(~np.isnan(y), axis=1, return_inverse=True)
        for number, known in enumerate(patterns.T):  # columns of one pattern share their inverses
            columns = np.flatnonzero(which.reshape(-1) == number)
            place = np.ix_(known, columns)
            alpha[place] = _weights(kernel[np.ix_(known, known)], y[place] - center[columns])
        return cls(counts, alpha, center, classes)

    def predict(self, counts: np.ndarray) -> np.ndarray:
        """f of counts (N, 2048): (N, T), for more than two classes (N, T, classes), each adding
        up to 1 over them."""
        f = min_max_kernel(counts, self.counts) @ self.alpha + self.center
        if self.classes:
            f = f.clip(TINY, 1)
        if self.classes <= 2:
            return f
        f = f.reshape(len(f), -1, self.classes)
        return f / f.sum(axis=-1, keepdims=True)

    def mixed(self, models: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """(1 - share) `models` + share f, where `models` is what they predict of `counts`."""
        return (1 - self.share) * models + self.share * self.predict(counts)

    def sharing(
        self, models: np.ndarray, counts: np.ndarray, y: np.ndarray, metric: str
    ) -> GaussianProcess:
        """The same with the share of `SHARES` that scores best on these rows, the least of equals.

        models -> what they predict of `counts`; y -> labels of these rows, by which `metric` is.
        """
        f, tasks = self.predict(counts), [str(t) for t in range(y.shape[1])]
        scores = {s: score(metric, y, (1 - s) * models + s * f, tasks).mean for s in SHARES}
        best = 0.0
        for share, value in scores.items():
            if METRICS[metric].better(value, scores[best]):
                best = share
        return replace(self, share=best)

    def save(self, path: Path) -> None:
        """As a safetensors file, of the counts those that are not 0."""
        rows, columns = np.nonzero(self.counts)
        arrays = {"rows": rows, "columns": columns, "values": self.counts[rows, columns]}
        arrays |= {"alpha": self.alpha, "center": self.center}
        state: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
        shape = list(self.counts.shape)
        save_state(path, state | {"shape": shape, "classes": self.classes, "share": self.share})

    @classmethod
    def load(cls, path: Path) -> GaussianProcess:
        """What `save` wrote."""
        state = load_state(path)
        arrays = {name: value.numpy() for name, value in state.items() if torch.is_tensor(value)}
        counts = np.zeros(state["shape"], dtype=arrays["values"].dtype)
        counts[arrays["rows"], arrays["columns"]] = arrays["values"]
        return cls(counts, arrays["alpha"], arrays["center"], state["classes"], state["share"])


def _weights(kernel: np.ndarray, y: np.ndarray) -> np.ndarray:
    """alpha (n, C) of centred labels (n, C), by the noise with the least leave-one-out error.

    y_i - f_-i(x_i) = alpha_i / [(K + s I)^-1]_ii: Rasmussen and Williams, equation 5.12. With
    K = U diag(w) U^T, one decomposition serves every s.
    """
    w, U = np.linalg.eigh(kernel)
    turned, squares = U.T @ y, np.square(U)
    best, least = np.zeros_like(y), np.full(y.shape[1], np.inf)
    for noise in NOISES:
        inverse = 1 / (w.clip(0) + noise)
        alpha = U @ (inverse[:, None] * turned)
        error = np.square(alpha / (squares @ inverse)[:, None]).mean(axis=0)
        better = error < least
        best[:, better], least[better] = alpha[:, better], error[better]
    return best
