"""Trees on Morgan counts and RDKit's descriptors."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..splits import Split
from .problems import Problem, fit_predict

TREES = 500


def random_forest(problem: Problem, split: Split, metric: str, seed: int) -> np.ndarray:
    """`TREES` trees. Breiman, Machine Learning 45 (2001) 5.

    Each split of a tree looks at a third of the features in regression (Breiman's choice, three
    times faster than scikit-learn's default of all) and at their square root in classification.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    settings: dict[str, Any] = {"n_estimators": TREES, "n_jobs": -1, "random_state": seed}
    regression = RandomForestRegressor(max_features=1 / 3, **settings)
    estimator = regression if problem.kind == "regression" else RandomForestClassifier(**settings)
    return fit_predict(estimator, problem.features(), problem, split.train)


def gradient_boosting(problem: Problem, split: Split, metric: str, seed: int) -> np.ndarray:
    """100 trees of up to 31 leaves on histograms, each a tenth of a step.

    Friedman, Annals of Statistics 29 (2001) 1189; scikit-learn's default settings, but without
    early stopping, which would hold back rows of its own. Features that are constant in the
    training rows can split nothing and are left out.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    settings: dict[str, Any] = {"early_stopping": False, "random_state": seed}
    regression = HistGradientBoostingRegressor(**settings)
    estimator = (
        regression if problem.kind == "regression" else HistGradientBoostingClassifier(**settings)
    )
    x = problem.features()
    x = x[:, np.ptp(x[split.train], axis=0) > 0]
    return fit_predict(estimator, x, problem, split.train)
