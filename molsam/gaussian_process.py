"""A Gaussian process on Morgan counts and descriptors: what a molecule's neighbours say, in closed
form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.linalg import solve

from .files import dense_array, load_state, save_state, sparse_state
from .kernels import min_max_kernel, rbf_kernel, rbf_unit
from .scaling import DescriptorScaler

NOISES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # variance of the noise, in those of the kernel
MIXES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
CHOSEN_BY = 1024  # rows at most that choose noise and mix: six decompositions of them
MOST_ROWS = 8192  # then a matrix is half a gigabyte, of which there are a few
AT_ONCE = 4096  # molecules predicted, with as many rows of both kernels
SHARE = 0.6  # of a prediction that is made with models
ARRAYS = ("descriptors", "alpha", "mix", "center")
TINY = 1e-6  # the least probability of a class


class Inputs(NamedTuple):
    """What it reads of molecules: Morgan `counts` (N, 2048), RDKit's `descriptors` (N, P)."""

    counts: np.ndarray
    descriptors: np.ndarray

    def take(self, rows: np.ndarray | slice) -> Inputs:
        """Those of some molecules."""
        return Inputs(self.counts[rows], self.descriptors[rows])


@dataclass(frozen=True)
class GaussianProcess:
    """The mean of a Gaussian process whose kernel k is a mix of two, of counts and of descriptors.

    f(x) = m + sum_i k(x, x_i) alpha_i,  alpha = (K + s I)^-1 (y - m),  K_ij = k(x_i, x_j)
    k = (1 - w) k_T + w k_R,  k_T `min_max_kernel`,  k_R `rbf_kernel` of ranked descriptors

    Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), equation 2.25, and 4.2.4
    for the sum of kernels. A class is regressed on as 0 or 1, and f kept between.

    Attributes
    ----------
    counts, descriptors : (n, 2048) and (n, 2 P) of the training molecules, these scaled.
    scaler : of descriptors, fitted to the training molecules.
    alpha : (n, C), 0 where a label is missing; a column for each task, of more than two classes
        for each class of each task.
    mix : (C,) w, one of `MIXES`.
    center : (C,) m, the mean of the labels.
    classes : how many there are; 0 for regression.
    share : of a prediction that is made with models; they have the rest.
    """

    counts: np.ndarray
    descriptors: np.ndarray
    scaler: DescriptorScaler
    alpha: np.ndarray
    mix: np.ndarray
    center: np.ndarray
    classes: int = 0
    share: float = SHARE

    @classmethod
    def fit(cls, inputs: Inputs, y: np.ndarray, classes: int = 0) -> GaussianProcess:
        """From n molecules and labels (n, T), NaN where missing; one at least of each task.

        The mix w and the noise s, one of `NOISES`, are those whose leave-one-out error is least,
        for each column alone, on `CHOSEN_BY` of the molecules where there are more.
        """
        y = np.asarray(y, dtype=np.float64)
        if classes > 2:
            each = np.where(np.isnan(y)[..., None], np.nan, y[..., None] == np.arange(classes))
            y = each.reshape(len(y), -1)
        scaler = DescriptorScaler.fit(inputs.descriptors, "ranked")
        x = scaler.transform(inputs.descriptors)
        kernels = min_max_kernel(inputs.counts, inputs.counts), rbf_kernel(x, x, rbf_unit(x))
        center, alpha, mix = np.nanmean(y, axis=0), np.zeros(y.shape), np.zeros(y.shape[1])
        patterns, which = np.unique(~np.isnan(y), axis=1, return_inverse=True)
        for number, known in enumerate(patterns.T):  # columns of one pattern share their inverses
            columns = np.flatnonzero(which.reshape(-1) == number)
            labels = y[np.ix_(known, columns)] - center[columns]
            some, rows = np.ix_(known, known), np.ix_(known, columns)
            mix[columns], alpha[rows] = _fitted(kernels[0][some], kernels[1][some], labels)
        return cls(inputs.counts, x, scaler, alpha, mix, center, classes)

    def predict(self, inputs: Inputs) -> np.ndarray:
        """f of N molecules: (N, T), for more than two classes (N, T, classes), each adding up to 1
        over them."""
        starts = range(0, max(len(inputs.counts), 1), AT_ONCE)
        f = np.concatenate([self._mean(inputs.take(slice(i, i + AT_ONCE))) for i in starts])
        if self.classes:
            f = f.clip(TINY, 1)
        if self.classes <= 2:
            return f
        f = f.reshape(len(f), -1, self.classes)
        return f / f.sum(axis=-1, keepdims=True)

    def _mean(self, inputs: Inputs) -> np.ndarray:
        """(N, C) f, before anything is known of classes."""
        tanimoto = min_max_kernel(inputs.counts, self.counts)
        x = self.scaler.transform(inputs.descriptors)
        rbf = rbf_kernel(x, self.descriptors, self.gamma)
        return (
            tanimoto @ (self.alpha * (1 - self.mix)) + rbf @ (self.alpha * self.mix) + self.center
        )

    @cached_property
    def gamma(self) -> float:
        """Of the RBF kernel."""
        return rbf_unit(self.descriptors)

    def mixed(self, models: np.ndarray, inputs: Inputs) -> np.ndarray:
        """(1 - share) `models` + share f, where `models` is what they predict of `inputs`."""
        return (1 - self.share) * models + self.share * self.predict(inputs)

    def save(self, path: Path) -> None:
        """As a safetensors file, of the counts those that are not 0."""
        state: dict[str, Any] = {"counts": sparse_state(self.counts)}
        state |= {name: torch.from_numpy(getattr(self, name)) for name in ARRAYS}
        scales = self.scaler.to_dict().items()
        state["scaler"] = {name: torch.tensor(x, dtype=torch.float64) for name, x in scales}
        save_state(path, state | {"classes": self.classes, "share": self.share})

    @classmethod
    def load(cls, path: Path) -> GaussianProcess:
        """What `save` wrote."""
        state = load_state(path)
        scales = {name: x.numpy() for name, x in state.pop("scaler").items()}
        counts = dense_array(state.pop("counts"))
        state |= {name: state[name].numpy() for name in ARRAYS}
        return cls(counts, scaler=DescriptorScaler.from_dict(scales), **state)


def _fitted(tanimoto: np.ndarray, rbf: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mixes (C,) and alpha (n, C) of centred labels (n, C), by kernels (n, n) of both kinds."""
    few = np.linspace(0, len(y) - 1, min(len(y), CHOSEN_BY)).astype(int)
    first, second = tanimoto[np.ix_(few, few)], rbf[np.ix_(few, few)]
    errors = [_left_out_errors(_mixed(first, second, w), y[few]) for w in MIXES]
    best = np.concatenate(errors).argmin(axis=0)
    mix, alpha = np.array(MIXES)[best // len(NOISES)], np.empty(y.shape)
    for choice in np.unique(best):
        columns, noise = best == choice, NOISES[choice % len(NOISES)]
        kernel = _mixed(tanimoto, rbf, MIXES[choice // len(NOISES)])
        kernel.flat[:: len(y) + 1] += noise
        alpha[:, columns] = solve(kernel, y[:, columns], assume_a="pos", overwrite_a=True)
    return mix, alpha


def _mixed(tanimoto: np.ndarray, rbf: np.ndarray, w: float) -> np.ndarray:
    return (1 - w) * tanimoto.astype(np.float64) + w * rbf.astype(np.float64)


def _left_out_errors(kernel: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mean squares (len(NOISES), C) of y_i - f_-i(x_i), where each molecule in turn is left out.

    y_i - f_-i(x_i) = alpha_i / [(K + s I)^-1]_ii: Rasmussen and Williams, equation 5.12. With
    K = U diag(w) U^T, one decomposition serves every s.
    """
    w, U = np.linalg.eigh(kernel)
    turned, squares = U.T @ y, np.square(U)
    inverses = [1 / (w.clip(0) + noise) for noise in NOISES]
    errors = [(U @ (i[:, None] * turned)) / (squares @ i)[:, None] for i in inverses]
    return np.square(errors).mean(axis=1)
