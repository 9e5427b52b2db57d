"""Support vector machines whose settings the validation rows choose.

Cortes and Vapnik, Machine Learning 20 (1995) 273; Drucker et al., NIPS 9 (1996) for regression.
One setting serves all tasks: the one with the best validation score, as for any model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from scipy.special import softmax

from ..kernels import min_max_kernel, rbf_unit, squared_distances
from ..metrics import METRICS, score
from ..scaling import DescriptorScaler, Standardizer
from ..splits import Split
from .problems import Problem, refuse_bare, served, too_many

COSTS = (0.3, 1.0, 3.0, 10.0, 30.0)
TUBES = (0.03, 0.1)  # epsilon, in standard deviations of the labels
WEIGHTS = (None, "balanced")
GAMMAS = (0.1, 0.3, 1.0, 3.0)  # in those of `rbf_unit`
MOST_ROWS = 16_000


def unserved(problem: Problem) -> str:
    """Why a support vector machine does not serve, "" where it does."""
    return too_many(problem, MOST_ROWS)


def tanimoto_machine(problem: Problem, split: Split, metric: str, seed: int) -> np.ndarray:
    """A support vector machine with the min-max kernel on Morgan counts."""
    kernel = min_max_kernel(problem.fingerprints, problem.fingerprints[split.train])
    return best_machine(problem, split, metric, [kernel])


def rbf_machine(problem: Problem, split: Split, metric: str, seed: int) -> np.ndarray:
    """A support vector machine with k(a, b) = exp(-gamma |a - b|^2) on scaled descriptors.

    Scales are those that molsam's models may have: two columns of each descriptor.
    """
    scaler = DescriptorScaler.fit(problem.descriptors[split.train], "ranked")
    x = scaler.transform(problem.descriptors)
    known = x[split.train]
    unit, squared = rbf_unit(known), squared_distances(x, known)
    return best_machine(problem, split, metric, (np.exp(-g * unit * squared) for g in GAMMAS))


def best_machine(
    problem: Problem, split: Split, metric: str, kernels: Iterable[np.ndarray]
) -> np.ndarray:
    """Predictions of the validation and test rows by the setting that validates best.

    kernels -> (N, training rows) each. Rows of other parts are NaN.
    """
    refuse_bare(problem, split.train)
    held = np.concatenate([split.valid, split.test])
    best, chosen = math.nan, None
    for kernel in kernels:
        for prediction in _each_machine(problem, split.train, held, kernel):
            found = prediction[: len(split.valid)]
            value = score(metric, problem.y[split.valid], found, problem.tasks).mean
            if chosen is None or METRICS[metric].better(value, best):
                best, chosen = value, prediction
    assert chosen is not None
    out = np.full((len(problem.y), *chosen.shape[1:]), np.nan)
    out[held] = chosen
    return out


def _each_machine(
    problem: Problem, train: np.ndarray, held: np.ndarray, kernel: np.ndarray
) -> Iterator[np.ndarray]:
    """(rows held, T) or (rows held, T, C) predictions of every setting."""
    tasks = [_task(problem, t, train, held, kernel) for t in range(len(problem.tasks))]
    for columns in zip(*tasks, strict=True):
        yield served(np.stack(columns, axis=1), problem)


def _task(
    problem: Problem, t: int, train: np.ndarray, held: np.ndarray, kernel: np.ndarray
) -> list[np.ndarray]:
    """What each setting predicts for the rows held, of one task."""
    known = np.flatnonzero(~np.isnan(problem.y[train, t]))
    labels = problem.y[train[known], t]
    inner = kernel[np.ix_(train[known], known)].astype(np.float64)
    outer = kernel[np.ix_(held, known)].astype(np.float64)
    if problem.kind == "regression":
        return [_values(machine, inner, outer, labels) for machine in _regressors()]
    return [
        _probabilities(machine, inner, outer, labels, problem.classes) for machine in _classifiers()
    ]


def _regressors() -> list[Any]:
    from sklearn.svm import SVR

    return [SVR(kernel="precomputed", C=c, epsilon=e) for c in COSTS for e in TUBES]


def _classifiers() -> list[Any]:
    from sklearn.svm import SVC

    return [SVC(kernel="precomputed", C=c, class_weight=w) for c in COSTS for w in WEIGHTS]


def _values(machine: Any, inner: np.ndarray, outer: np.ndarray, labels: np.ndarray) -> np.ndarray:
    scale = Standardizer.fit(labels[:, None])
    machine.fit(inner, scale.transform(labels[:, None])[:, 0])
    return scale.inverse(machine.predict(outer)[:, None])[:, 0]


def _probabilities(
    machine: Any, inner: np.ndarray, outer: np.ndarray, labels: np.ndarray, classes: int
) -> np.ndarray:
    """(rows, C) softmax of the decision values: they rank as those do, and are not calibrated."""
    out = np.zeros((len(outer), classes))
    present, index = np.unique(labels.astype(int), return_inverse=True)
    if len(present) == 1:
        out[:, present] = 1
        return out
    decision = machine.fit(inner, index).decision_function(outer)
    if decision.ndim == 1:
        decision = np.stack([np.zeros_like(decision), decision], axis=1)
    out[:, present] = softmax(decision, axis=1)
    return out
