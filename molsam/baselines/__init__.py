"""Baselines: what fingerprints and descriptors reach on the same rows.

A neural network that does not beat a random forest is not worth its training. `BASELINES` names
the baselines: each learns from the training rows, may choose its settings by the validation rows,
and predicts both validation and test rows, so that it is scored like any model. `predict` runs one
and keeps the labels of the test rows from it. `fit_predict` does the same for a scikit-learn
estimator of one's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import numpy as np

from ..splits import Split
from . import chemprop, machines, processes
from .forests import gradient_boosting, random_forest
from .problems import BaselineError, Problem, fit_predict

__all__ = ["BASELINES", "Baseline", "BaselineError", "Problem", "fit_predict", "predict"]

PACKAGES = ("molsam", "rdkit", "scikit-learn")


def versions() -> str:
    """`molsam 0.1.0, rdkit 2026.9.1, scikit-learn 1.9.1`."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)


@dataclass(frozen=True)
class Baseline:
    """How a baseline is called and made.

    fit : (problem, split, metric, seed) -> (N, T) values or probabilities of class 1, or (N, T, C)
        probabilities; maybe NaN in rows that are in neither the validation nor the test part.
    declines : (problem) -> why it does not serve, "" where it does.
    versions : () -> what its result may depend on.
    """

    title: str
    fit: Callable[[Problem, Split, str, int], np.ndarray]
    declines: Callable[[Problem], str] = lambda problem: ""
    versions: Callable[[], str] = versions


BASELINES: dict[str, Baseline] = {
    "rf": Baseline("random forest", random_forest),
    "gb": Baseline("gradient boosting", gradient_boosting),
    "svm-tanimoto": Baseline("Tanimoto SVM", machines.tanimoto_machine, machines.unserved),
    "svm-rbf": Baseline("RBF SVM", machines.rbf_machine, machines.unserved),
    "gp": Baseline("Gaussian process", processes.gaussian_process, processes.unserved),
    "chemprop": Baseline("chemprop", chemprop.message_passing, chemprop.unserved, chemprop.version),
    "chemprop-rdkit": Baseline(
        "chemprop with RDKit's descriptors",
        chemprop.message_passing_rdkit,
        chemprop.unserved,
        chemprop.version,
    ),
}
"""The baselines by the name that `molsam compare --baselines` calls them."""


def predict(name: str, problem: Problem, split: Split, *, metric: str, seed: int) -> np.ndarray:
    """What the baseline called `name` predicts; it never sees a label of the test rows.

    metric -> what its settings are chosen by, on the validation rows.

    Raises:
        BaselineError: the baseline does not serve this problem, or failed.
    """
    baseline = BASELINES[name]
    if reason := baseline.declines(problem):
        raise BaselineError(f"{name} cannot be made: {reason}")
    return baseline.fit(problem.hiding(split.test), split, metric, seed)
