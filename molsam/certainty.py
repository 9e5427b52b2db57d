"""How sure a prediction is: by intervals and a temperature, of validation rows, and by the nearest
training row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from .files import dense_array, load_state, save_state, sparse_state
from .kernels import nearest
from .metrics import Kind

COVERAGE = 0.9
OUTSIDE = 0.05  # of the validation rows lie outside the domain
TINY = 1e-6  # the least probability of a class
PRIOR = 0.1  # standard deviation of log T before any row is seen


@dataclass(frozen=True)
class Certainty:
    """What the rows that trained no weights tell of the predictions of others.

    Attributes
    ----------
    scores : for each task of a regression r_i = |y_i - f(x_i)| / u_i of the validation rows with a
        label, rising, where u_i is the `unit` of x_i.
    spread : (T,) the mean standard deviation of the models on the validation rows.
    temperature : of probabilities, one for all tasks; 1 for a regression.
    counts : (n, 2048) Morgan counts of the training molecules.
    edge : similarity to the nearest of them below which a molecule is outside the domain.
    """

    scores: Sequence[np.ndarray]
    spread: np.ndarray
    temperature: float
    counts: np.ndarray
    edge: float

    @classmethod
    def fit(
        cls,
        kind: Kind,
        y: np.ndarray,
        mean: np.ndarray,
        std: np.ndarray,
        counts: np.ndarray,
        train: np.ndarray,
    ) -> Certainty:
        """From the validation rows.

        y -> (N, T) labels, NaN where missing; mean, std -> what is predicted of them, (N, T), for
        classes (N, T, C); counts -> (N, 2048) theirs; train -> (n, 2048) of the training rows.
        """
        edge = float(np.quantile(nearest(counts, train), OUTSIDE))
        if kind != "regression":
            return cls((), np.zeros(0), temperature_of(y, mean), train, edge)
        spread = std.mean(axis=0)
        r = np.abs(y - mean) / unit(std, spread)
        return cls([np.sort(column[~np.isnan(column)]) for column in r.T], spread, 1.0, train, edge)

    def interval(
        self, mean: np.ndarray, std: np.ndarray, coverage: float = COVERAGE
    ) -> tuple[np.ndarray, np.ndarray]:
        """[f - q u, f + q u]: split conformal intervals, (N, T) lower and upper ends.

        q -> the ceil((n + 1) coverage)-th of the n `scores` of the task, infinite if n is less;
        u -> `unit`. Lei et al., Journal of the American Statistical Association 113 (2018) 1094,
        section 5.2. Of molecules drawn as the validation rows were, a share of at least `coverage`
        lies within, on average over such draws; of other molecules nothing is known.
        """
        if not 0 < coverage < 1:
            raise ValueError(f"coverage is a share between 0 and 1, such as 0.9, not {coverage}")
        q = np.array([_quantile(scores, coverage) for scores in self.scores])
        half = q * unit(std, self.spread)
        return mean - half, mean + half

    def calibrated(self, p: np.ndarray) -> np.ndarray:
        """Probabilities p at the `temperature`: (N, T) of class 1, or (N, T, C)."""
        return tempered(p, self.temperature)

    def similarity(self, counts: np.ndarray) -> np.ndarray:
        """(N,) to the nearest training molecule: `min_max_kernel` of Morgan counts (N, 2048)."""
        return nearest(counts, self.counts)

    def save(self, path: Path) -> None:
        """As a safetensors file, of the counts those that are not 0."""
        state = {
            "scores": [torch.from_numpy(scores) for scores in self.scores],
            "spread": torch.from_numpy(self.spread),
            "temperature": self.temperature,
            "edge": self.edge,
        }
        save_state(path, state | {"counts": sparse_state(self.counts)})

    @classmethod
    def load(cls, path: Path) -> Certainty:
        """What `save` wrote."""
        state = load_state(path)
        scores = [part.numpy() for part in state["scores"]]
        temperature, edge = float(state["temperature"]), float(state["edge"])
        counts = dense_array(state["counts"])
        return cls(scores, state["spread"].numpy(), temperature, counts, edge)


def unit(std: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """u = s + s_0, (N, T): half of an interval's width goes with the models' standard deviation s,
    the other half stays; 1 where the models, or the one there is, do not differ."""
    return np.where(spread > 0, std + spread, 1.0)


def _quantile(scores: np.ndarray, coverage: float) -> float:
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)  # .9 of 10 is 9, and not a little more
    return float(scores[rank - 1]) if rank <= len(scores) else math.inf


def of_classes(p: np.ndarray) -> np.ndarray:
    """Probabilities (N, T) of class 1 as those of both, (N, T, 2); of more, (N, T, C), as is."""
    return np.stack([1 - p, p], axis=-1) if p.ndim == 2 else p


def tempered(p: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log p / T): Guo et al., ICML 2017, equation 9, of probabilities in place of logits.

    p -> (N, T) of class 1, or (N, T, C).
    """
    return softmax(_logs(p) / temperature, axis=-1)[(..., 1) if p.ndim == 2 else ...]


def temperature_of(y: np.ndarray, p: np.ndarray) -> float:
    """The T of least -sum log `tempered`(p)_y + (log T)^2 / (2 PRIOR^2).

    The sum is over all known labels y (N, T) of all tasks. Without the second term, some hundred
    rows make most probabilities worse; with it they move T little, and many rows as they want.
    """
    known = ~np.isnan(y)
    logs, labels = _logs(p)[known], y[known].astype(int)

    def loss(log_t: float) -> float:
        wrong = -log_softmax(logs / math.exp(log_t), axis=-1)[np.arange(len(labels)), labels]
        return wrong.sum() + (log_t / PRIOR) ** 2 / 2

    return math.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded").x)


def _logs(p: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities of all classes, (N, T, C), no class impossible."""
    return np.log(of_classes(p).clip(TINY, 1))
