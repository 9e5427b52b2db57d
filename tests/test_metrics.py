"""Metrics: values by hand, scikit-learn's where nothing is missing, and no trace of what is."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics as twin
from hypothesis import given, settings
from hypothesis import strategies as st

from molsam import metrics
from molsam.metrics import METRICS, score

RELAXED = settings(deadline=None, max_examples=10)
CLASSES = 3
PAIRS = [(name, kind) for name, metric in METRICS.items() for kind in metric.kinds]
every_metric = pytest.mark.parametrize(("name", "kind"), PAIRS)


def example(kind: str, seed: int, n: int = 40, tasks: int = 3):
    """Labels with a third missing and every class in every task, predictions, task names."""
    generator = np.random.default_rng(seed)
    if kind == "regression":
        y = generator.normal(size=(n, tasks))
        prediction = y + generator.normal(size=(n, tasks))
    else:
        classes = CLASSES if kind == "multiclass" else 2
        y = generator.integers(0, classes, (n, tasks)).astype(float)
        y[:classes] = np.arange(classes)[:, None]
        prediction = generator.dirichlet(np.ones(classes), (n, tasks))
        prediction = prediction if kind == "multiclass" else prediction[..., 1]
    hidden = generator.random((n, tasks)) < 1 / 3
    hidden[:CLASSES] = False
    y[hidden] = np.nan
    return y, prediction, [f"task {t}" for t in range(tasks)]


def one(name: str, y, prediction) -> float:
    """The score of a single task."""
    return score(name, np.array(y)[:, None], np.array(prediction)[:, None], ["t"]).mean


@pytest.mark.parametrize(
    ("name", "y", "prediction", "expected"),
    [
        ("rmse", [0, 0, np.nan], [3, 1, 9], math.sqrt(5)),
        ("mae", [0, 0, np.nan], [3, -1, 9], 2),
        ("mae", [2, np.nan], [5, 9], 3),
        ("r2", [1, 2, 3, np.nan], [1, 2, 4, 9], 0.5),
        ("roc_auc", [0, 0, 1, 1, np.nan], [0.1, 0.4, 0.35, 0.8, 0], 0.75),
        ("prc_auc", [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], (1 + 2 / 3) / 2),
        ("accuracy", [0, 1, 1, np.nan], [0.2, 0.7, 0.3, 0.9], 2 / 3),
        ("accuracy", [0, 0], [0.5, 0.5], 1),
        ("accuracy", [1, np.nan], [0.9, 0.1], 1),
        ("accuracy", [1, 1], [0.6, 0.6], 1),
        ("f1", [0, 1, 1, 1], [0.9, 0.9, 0.9, 0.1], 2 / 3),
        ("mcc", [0, 0, 1, 1], [0.1, 0.9, 0.9, 0.9], 1 / math.sqrt(3)),
        ("mcc", [0, 0, 1, 1], [0.1, 0.1, 0.1, 0.1], 0),
        ("accuracy", [0, 1, 2], [[0.6, 0.4, 0], [0.6, 0.4, 0], [0, 0, 1]], 2 / 3),
        ("f1", [0, 1, 2], [[0.6, 0.4, 0], [0.6, 0.4, 0], [0, 0, 1]], (2 / 3 + 0 + 1) / 3),
    ],
)
def test_by_hand(name, y, prediction, expected):
    assert one(name, y, prediction) == pytest.approx(expected)


def multiclass_auc(y, prediction):
    return twin.roc_auc_score(y, prediction, multi_class="ovr", average="macro")


TWINS = {
    ("rmse", "regression"): twin.root_mean_squared_error,
    ("mae", "regression"): twin.mean_absolute_error,
    ("r2", "regression"): twin.r2_score,
    ("roc_auc", "binary"): twin.roc_auc_score,
    ("roc_auc", "multiclass"): multiclass_auc,
    ("prc_auc", "binary"): twin.average_precision_score,
    ("accuracy", "binary"): lambda y, p: twin.accuracy_score(y, p > 0.5),
    ("accuracy", "multiclass"): lambda y, p: twin.accuracy_score(y, p.argmax(1)),
    ("f1", "binary"): lambda y, p: twin.f1_score(y, p > 0.5),
    ("f1", "multiclass"): lambda y, p: twin.f1_score(y, p.argmax(1), average="macro"),
    ("mcc", "binary"): lambda y, p: twin.matthews_corrcoef(y, p > 0.5),
    ("mcc", "multiclass"): lambda y, p: twin.matthews_corrcoef(y, p.argmax(1)),
}


@every_metric
@RELAXED
@given(seed=st.integers(0, 10_000))
def test_a_task_is_scikit_learns_score_of_its_known_labels(name, kind, seed):
    y, prediction, tasks = example(kind, seed)
    found = score(name, y, prediction, tasks)
    for t, task in enumerate(tasks):
        known = ~np.isnan(y[:, t])
        expected = TWINS[name, kind](y[known, t], prediction[known, t])
        assert found.per_task[task] == pytest.approx(expected, abs=1e-12)
    assert found.mean == pytest.approx(np.mean(list(found.per_task.values())))
    assert found.excluded == ()


@every_metric
@RELAXED
@given(seed=st.integers(0, 10_000), data=st.data())
def test_the_order_of_rows_and_tasks_does_not_matter(name, kind, seed, data):
    y, prediction, tasks = example(kind, seed)
    found = score(name, y, prediction, tasks)
    rows = data.draw(st.permutations(range(len(y))))
    columns = data.draw(st.permutations(range(len(tasks))))
    moved = score(
        name, y[rows][:, columns], prediction[rows][:, columns], [tasks[t] for t in columns]
    )
    assert moved.mean == pytest.approx(found.mean)
    assert moved.per_task == pytest.approx(found.per_task)


@every_metric
@RELAXED
@given(seed=st.integers(0, 10_000), poison=st.sampled_from([math.nan, math.inf, -5.0, 1e300]))
def test_predictions_without_a_label_never_matter(name, kind, seed, poison):
    y, prediction, tasks = example(kind, seed)
    spoilt = prediction.copy()
    spoilt[np.isnan(y)] = poison
    assert score(name, y, spoilt, tasks) == score(name, y, prediction, tasks)


@every_metric
def test_perfect_predictions_are_best(name, kind):
    y, prediction, tasks = example(kind, 0)
    perfect = np.eye(CLASSES)[np.nan_to_num(y).astype(int)] if kind == "multiclass" else y
    best = score(name, y, perfect, tasks).mean
    assert best == pytest.approx(1.0 if METRICS[name].greater_is_better else 0.0)
    assert METRICS[name].better(best, score(name, y, prediction, tasks).mean)


@every_metric
def test_a_prediction_that_is_not_finite_is_not_hidden(name, kind):
    y, prediction, tasks = example(kind, 1)
    prediction[0, 1] = np.nan
    found = score(name, y, prediction, tasks)
    assert math.isnan(found.mean)
    assert [task for task, value in found.per_task.items() if math.isnan(value)] == ["task 1"]


# what cannot be judged

NEEDS_TWO = ["r2", "roc_auc", "prc_auc", "f1", "mcc"]


@every_metric
def test_tasks_that_cannot_be_judged_are_named(name, kind):
    y, prediction, tasks = example(kind, 2)
    y[:, 0] = np.nan
    y[:, 2] = np.where(np.isnan(y[:, 2]), np.nan, 1.0)
    found = score(name, y, prediction, tasks)
    expected = ("task 0", "task 2") if name in NEEDS_TWO else ("task 0",)
    assert found.excluded == expected
    assert tuple(found.per_task) == tuple(task for task in tasks if task not in expected)
    assert found.mean == pytest.approx(np.mean(list(found.per_task.values())))


@every_metric
@pytest.mark.filterwarnings("error")
def test_nothing_known_is_nan(name, kind):
    y, prediction, tasks = example(kind, 3)
    found = score(name, np.full_like(y, np.nan), prediction, tasks)
    assert math.isnan(found.mean)
    assert found.excluded == tuple(tasks)
    assert found.per_task == {}


def test_r2_of_one_label_is_not_judged():
    found = score("r2", np.array([[1.0, 1.0], [np.nan, 2.0]]), np.ones((2, 2)), ["one", "two"])
    assert found.excluded == ("one",)


def test_one_against_the_rest_needs_every_class():
    y, prediction, tasks = example("multiclass", 4)
    y[y[:, 0] == 2, 0] = 1
    assert score("roc_auc", y, prediction, tasks).excluded == ("task 0",)
    assert score("accuracy", y, prediction, tasks).excluded == ()


# directions and names


@pytest.mark.parametrize("name", METRICS)
def test_better_follows_the_direction(name):
    metric = METRICS[name]
    low, high = (0.2, 0.3) if metric.greater_is_better else (0.3, 0.2)
    assert metric.better(high, low)
    assert not metric.better(low, high)
    assert not metric.better(low, low)
    assert metric.better(low, math.nan)
    assert not metric.better(math.nan, low)
    assert not metric.better(math.nan, math.nan)


def test_errors_go_down_and_the_rest_go_up():
    assert {name for name, metric in METRICS.items() if not metric.greater_is_better} == {
        "rmse", "mae",
    }  # fmt: skip
    assert all(name == metric.name for name, metric in METRICS.items())


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_each_kind_has_a_default_that_serves_it(kind):
    assert kind in METRICS[metrics.default_metric(kind)].kinds


def test_bad_calls_are_advised():
    y = np.zeros((4, 2))
    with pytest.raises(ValueError, match="no metric is called 'auc'; choose from rmse, mae"):
        score("auc", y, y, ["a", "b"])
    for labels, prediction, tasks in [(y, y[:3], "ab"), (y, y, "a"), (y[:, 0], y[:, 0], "ab")]:
        with pytest.raises(ValueError, match="do not agree"):
            score("rmse", labels, prediction, list(tasks))


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_all_scores_are_those_of_each_metric_that_serves(kind):
    y, prediction, tasks = example(kind, 5)
    y[:, 0] = np.nan
    found = metrics.score_all(kind, y, prediction, tasks)
    assert list(found) == [name for name, metric in METRICS.items() if kind in metric.kinds]
    for name, row in found.items():
        alone = score(name, y, prediction, tasks)
        assert row == {"mean": alone.mean, "tasks": alone.per_task, "excluded": ["task 0"]}


# calibration


def test_calibration_error_is_its_formula():
    generator = np.random.default_rng(0)
    p = generator.random(103)
    hit = (generator.random(103) < 1 - p).astype(float)  # too sure here, too little there
    for bins in (10, 4):
        total = 0.0
        for rows in np.array_split(np.argsort(p, kind="stable"), bins):
            total += len(rows) / 103 * abs(p[rows].mean() - hit[rows].mean())
        assert metrics.calibration_error(hit, p, bins) == pytest.approx(total)
    assert metrics.calibration_error(hit, p) == metrics.calibration_error(hit, p, 10)
    assert metrics.calibration_error(np.ones(5), np.ones(5)) == 0
    assert metrics.calibration_error(np.zeros(3), np.ones(3)) == 1


def test_bins_are_of_equal_size_from_the_least_sure():
    p = np.array([0.9, 0.1, 0.3, 0.7])
    hit = np.array([1.0, 0.0, 1.0, 0.0])
    mean, share, counts = metrics.reliability(hit, p, bins=2)
    assert mean.tolist() == pytest.approx([0.2, 0.8])
    assert share.tolist() == [0.5, 0.5]
    assert counts.tolist() == [2, 2]
    mean, share, counts = metrics.reliability(hit, p)  # no more bins than labels
    assert mean.tolist() == [0.1, 0.3, 0.7, 0.9]
    assert share.tolist() == [0, 1, 0, 1]
    many = np.linspace(0, 1, 30)
    assert len(metrics.reliability(many, many)[0]) == 10


def test_rows_that_are_equally_sure_keep_their_order():
    """A sort that is not stable would bin another way on another machine."""
    generator = np.random.default_rng(0)
    p, hit = generator.choice([0.2, 0.5, 0.7], 1000), generator.integers(0, 2, 1000)
    order = sorted(range(1000), key=lambda row: p[row])
    assert metrics.reliability(hit, p, bins=1000)[1].tolist() == hit[order].tolist()


def test_the_import_is_cheap():
    code = "import sys, molsam.metrics; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
