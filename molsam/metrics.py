"""Scores over known labels: each metric knows its direction, and which tasks it can judge.

A score is the mean over tasks, and a task is judged on its known labels alone. What a metric cannot
judge, such as ROC-AUC where one class is missing, is left out of the mean and named. That depends
on the labels only: a prediction that is not finite is not left out, it makes the mean NaN.

The only door to scikit-learn's metrics, which are imported when first used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["regression", "binary", "multiclass"]
"""What labels are: values, 0 or 1, or one of several classes."""


@dataclass(frozen=True)
class Metric:
    """Agreement between the labels and the predictions of one task.

    function : (y, prediction) -> float, on the M known labels of a task.
        y (M,): values, or class indices from 0. prediction (M,): values, or probabilities of
        class 1; (M, C): probabilities of C classes.
    judges : (y, prediction) -> bool, whether these labels allow a score at all.
    """

    name: str
    title: str
    greater_is_better: bool
    kinds: tuple[Kind, ...]
    function: Callable[[np.ndarray, np.ndarray], float]
    judges: Callable[[np.ndarray, np.ndarray], bool]

    def better(self, a: float, b: float) -> bool:
        """Whether score `a` is better than score `b`; NaN is worse than any number."""
        if math.isnan(a) or math.isnan(b):
            return not math.isnan(a)
        return a > b if self.greater_is_better else a < b


@dataclass(frozen=True)
class Score:
    """The mean over the judged tasks, NaN if there is none; each of them; the names of the rest."""

    mean: float
    per_task: dict[str, float]
    excluded: tuple[str, ...]


def score(metric: str, y: np.ndarray, prediction: np.ndarray, tasks: Sequence[str]) -> Score:
    """The score by the metric called `metric` in `METRICS`.

    y -> (N, T), NaN where missing; prediction -> (N, T), or (N, T, C) probabilities of classes;
    tasks -> T names. In the units of `y`.

    Raises:
        ValueError: an unknown metric, or shapes that do not agree.
    """
    if metric not in METRICS:
        raise ValueError(f"no metric is called {metric!r}; choose from {', '.join(METRICS)}")
    y = np.asarray(y, dtype=np.float64)
    prediction = np.asarray(prediction, dtype=np.float64)
    if y.ndim != 2 or prediction.shape[:2] != y.shape or len(tasks) != y.shape[1]:
        raise ValueError(
            f"labels {y.shape}, predictions {prediction.shape} and {len(tasks)} task names do not "
            "agree; give labels (N, T), predictions (N, T) or (N, T, C), and T names"
        )
    scores = {
        task: _score_task(METRICS[metric], y[:, t], prediction[:, t])
        for t, task in enumerate(tasks)
    }
    per_task = {task: value for task, value in scores.items() if value is not None}
    mean = float(np.mean(list(per_task.values()))) if per_task else math.nan
    return Score(mean, per_task, tuple(task for task in tasks if task not in per_task))


def score_all(
    kind: Kind, y: np.ndarray, prediction: np.ndarray, tasks: Sequence[str]
) -> dict[str, Any]:
    """Every metric that serves the kind: name -> {mean, tasks, excluded}."""
    out = {}
    for name, metric in METRICS.items():
        if kind in metric.kinds:
            found = score(name, y, prediction, tasks)
            out[name] = {
                "mean": found.mean,
                "tasks": found.per_task,
                "excluded": list(found.excluded),
            }
    return out


def default_metric(kind: Kind) -> str:
    """The name of the metric a kind of target is judged by unless told otherwise."""
    return {"regression": "rmse", "binary": "roc_auc", "multiclass": "accuracy"}[kind]


def rmse(y: np.ndarray, prediction: np.ndarray) -> float:
    """sqrt(mean((p - y)^2))."""
    return float(np.sqrt(np.mean((prediction - y) ** 2)))


def mae(y: np.ndarray, prediction: np.ndarray) -> float:
    """mean(|p - y|)."""
    return float(np.mean(np.abs(prediction - y)))


def r2(y: np.ndarray, prediction: np.ndarray) -> float:
    """1 - sum((p - y)^2) / sum((y - mean(y))^2)."""
    return float(1 - np.sum((prediction - y) ** 2) / np.sum((y - y.mean()) ** 2))


def roc_auc(y: np.ndarray, prediction: np.ndarray) -> float:
    """Area under the ROC curve; with C classes the mean over classes of one against the rest."""
    from sklearn.metrics import roc_auc_score

    if prediction.ndim == 1:
        return float(roc_auc_score(y, prediction))
    return float(np.mean([roc_auc_score(y == c, column) for c, column in enumerate(prediction.T)]))


def prc_auc(y: np.ndarray, prediction: np.ndarray) -> float:
    """Average precision, the area under the precision-recall curve by steps."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(y, prediction))


def accuracy(y: np.ndarray, prediction: np.ndarray) -> float:
    """Share of labels that are the predicted class."""
    return float(np.mean(_classes(prediction) == y))


def f1(y: np.ndarray, prediction: np.ndarray) -> float:
    """F1 of class 1; with C classes the mean of F1 over the classes labelled or predicted."""
    from sklearn.metrics import f1_score

    average = "binary" if prediction.ndim == 1 else "macro"
    return float(f1_score(y, _classes(prediction), average=average))


def mcc(y: np.ndarray, prediction: np.ndarray) -> float:
    """Matthews' correlation coefficient; 0 where all predictions are one class."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(y, _classes(prediction)))


def reliability(
    hit: np.ndarray, p: np.ndarray, bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share of hits and number of labels in each bin, of equal size by p.

    hit -> (M,) 0 or 1, p -> (M,) what it was held to be; as many bins as there are labels at most.
    """
    groups = np.array_split(np.argsort(p, kind="stable"), min(bins, len(p)))
    found = [(p[rows].mean(), hit[rows].mean(), len(rows)) for rows in groups]
    mean, share, counts = np.array(found).T
    return mean, share, counts


def calibration_error(hit: np.ndarray, p: np.ndarray, bins: int = 10) -> float:
    """sum_b n_b |mean(p) - mean(hit)| / M over `reliability`'s bins.

    The expected calibration error of Naeini et al., AAAI 2015, in bins of equal size.
    """
    mean, share, counts = reliability(hit, p, bins)
    return float(np.average(np.abs(mean - share), weights=counts))


def _score_task(metric: Metric, y: np.ndarray, prediction: np.ndarray) -> float | None:
    known = ~np.isnan(y)
    y, prediction = y[known], prediction[known]
    if not metric.judges(y, prediction):
        return None
    return metric.function(y, prediction) if np.isfinite(prediction).all() else math.nan


def _classes(prediction: np.ndarray) -> np.ndarray:
    """The most probable class; of equal ones the first, so that 0.5 is class 0."""
    return (prediction > 0.5).astype(int) if prediction.ndim == 1 else prediction.argmax(axis=1)


def _any_label(y: np.ndarray, prediction: np.ndarray) -> bool:
    return len(y) > 0


def _two_labels(y: np.ndarray, prediction: np.ndarray) -> bool:
    return len(np.unique(y)) > 1


def _every_class(y: np.ndarray, prediction: np.ndarray) -> bool:
    return len(np.unique(y)) == (2 if prediction.ndim == 1 else prediction.shape[1])


_REGRESSION: tuple[Kind, ...] = ("regression",)
_CLASSES: tuple[Kind, ...] = ("binary", "multiclass")

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("rmse", "RMSE", False, _REGRESSION, rmse, _any_label),
        Metric("mae", "MAE", False, _REGRESSION, mae, _any_label),
        Metric("r2", "R²", True, _REGRESSION, r2, _two_labels),
        Metric("roc_auc", "ROC-AUC", True, _CLASSES, roc_auc, _every_class),
        Metric("prc_auc", "PRC-AUC", True, ("binary",), prc_auc, _every_class),
        Metric("accuracy", "accuracy", True, _CLASSES, accuracy, _any_label),
        Metric("f1", "F1", True, _CLASSES, f1, _two_labels),
        Metric("mcc", "MCC", True, _CLASSES, mcc, _two_labels),
    )
}
