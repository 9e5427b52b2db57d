"""What baselines learn from, and scikit-learn's estimators fitted to it task by task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..datasets import Kind, MoleculeTable
from ..molecules import Charges, Salts
from ..reading import Reading


class BaselineError(ValueError):
    """A baseline that cannot be made: says why, and what to try."""


@dataclass(frozen=True)
class Problem:
    """N readable molecules and their labels, as baselines see them.

    Attributes
    ----------
    smiles, salts, charges : N texts, and how they become molecules (see `molecules.parse`).
    fingerprints : (N, 2048) counts, radius 2.
    descriptors : (N, P) RDKit's, unscaled.
    y : (N, T) labels, NaN where missing.
    tasks, kind : T names, and what the labels are.
    classes : how many there are; 0 for regression.
    """

    smiles: tuple[str, ...]
    fingerprints: np.ndarray
    descriptors: np.ndarray
    y: np.ndarray
    tasks: tuple[str, ...]
    kind: Kind
    classes: int
    salts: Salts = "keep"
    charges: Charges = "keep"

    @classmethod
    def of(
        cls,
        table: MoleculeTable,
        read: Reading,
        salts: Salts = "keep",
        charges: Charges = "keep",
    ) -> Problem:
        """Of the readable rows `table`, and what was `read` with Morgan counts and descriptors."""
        assert read.fingerprints is not None
        assert read.descriptors is not None
        return cls(
            smiles=table.smiles,
            fingerprints=read.fingerprints,
            descriptors=read.descriptors,
            y=table.y,
            tasks=table.tasks,
            kind=table.kind,
            classes=table.outcomes,
            salts=salts,
            charges=charges,
        )

    def hiding(self, rows: np.ndarray) -> Problem:
        """The same without the labels of these rows."""
        y = np.array(self.y, dtype=np.float64)
        y[rows] = np.nan
        return replace(self, y=y)

    def features(self) -> np.ndarray:
        """(N, 2048 + P) float32: Morgan counts, then descriptors.

        All entries are finite: a descriptor that is not a number is 0, one beyond float32 its
        limit.
        """
        limit = float(np.finfo(np.float32).max)
        values = np.nan_to_num(self.descriptors).clip(-limit, limit)
        return np.hstack([self.fingerprints.astype(np.float32), values.astype(np.float32)])


def fit_predict(estimator: Any, x: np.ndarray, problem: Problem, train: np.ndarray) -> np.ndarray:
    """Predictions of all rows by a scikit-learn estimator fitted anew to each task.

    x -> (N, K) features; train -> positions of the training rows, of which a task uses those with
    a label. Returns (N, T) values or probabilities of class 1, or (N, T, C) probabilities. A task
    with one class among its training rows gets that class.

    Raises:
        BaselineError: a task without a training label.
    """
    regression = problem.kind == "regression"
    learn = _values if regression else partial(_probabilities, classes=problem.classes)
    known = [train[~np.isnan(problem.y[train, t])] for t in range(len(problem.tasks))]
    refuse_bare(problem, train)
    columns = [learn(estimator, x, problem.y[:, t], rows) for t, rows in enumerate(known)]
    return served(np.stack(columns, axis=1), problem)


def refuse_bare(problem: Problem, train: np.ndarray) -> None:
    """Every task needs a training label."""
    bare = np.flatnonzero(np.isnan(problem.y[train]).all(axis=0))
    if len(bare):
        raise BaselineError(
            f"no training row has a label for {problem.tasks[bare[0]]}; leave it out, or choose "
            "another split"
        )


def too_many(problem: Problem, most: int) -> str:
    """Why what keeps a kernel of up to `most` molecules does not serve, "" where it does."""
    n = len(problem.y)
    if n <= most:
        return ""
    return f"it serves up to {most:,} molecules, not {n:,}, whose kernel would fill the memory"


def served(prediction: np.ndarray, problem: Problem) -> np.ndarray:
    """Of two classes the probability of class 1 alone."""
    return prediction[..., 1] if problem.kind == "binary" else prediction


def _values(estimator: Any, x: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return estimator.fit(x[rows], labels[rows]).predict(x)


def _probabilities(
    estimator: Any, x: np.ndarray, labels: np.ndarray, rows: np.ndarray, classes: int
) -> np.ndarray:
    """(N, C), with zeros for classes that no training row has."""
    probabilities = np.zeros((len(x), classes))
    present, index = np.unique(labels[rows].astype(int), return_inverse=True)
    if len(present) == 1:
        probabilities[:, present] = 1
    else:
        probabilities[:, present] = estimator.fit(x[rows], index).predict_proba(x)
    return probabilities
