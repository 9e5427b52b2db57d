"""Baselines: what they learn from, what they predict, and that they learn at all."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import tiny
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from molsam import baselines, datasets, fit, metrics, molecules, reading, splits
from molsam.baselines import (
    BASELINES,
    BaselineError,
    Problem,
    fit_predict,
    forests,
    machines,
    processes,
)
from molsam.gaussian_process import Inputs
from molsam.kernels import min_max_kernel
from molsam.splits import Split

SMILES = ["CCO", "c1ccccc1", "C", "[Na+].[Cl-]", "CC(=O)Oc1ccccc1C(=O)O", "[Fe+2]", "C" * 60]
BUILT_IN = ["rf", "gb", "svm-tanimoto", "svm-rbf", "gp"]
SPLIT = Split(np.arange(40), np.arange(40, 50), np.arange(50, 60))


def problem_of(table: datasets.MoleculeTable) -> Problem:
    read = reading.read(table.smiles, None, descriptors=True, fingerprints=True, keep=True)
    return Problem.of(table, read)


def metric_of(problem: Problem) -> str:
    return metrics.default_metric(problem.kind)


def labelled(y: np.ndarray, kind: str, classes: int = 0) -> Problem:
    """Labels without molecules."""
    tasks = tuple(f"task {t}" for t in range(y.shape[1]))
    none = np.zeros((len(y), 0))
    classes = {"regression": 0, "binary": 2}.get(kind, classes)
    return Problem(("",) * len(y), none, none, y, tasks, kind, classes)  # type: ignore[arg-type]


def predict(name: str, problem: Problem, split: Split = SPLIT, seed: int = 0) -> np.ndarray:
    return baselines.predict(name, problem, split, metric=metric_of(problem), seed=seed)


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch):
    monkeypatch.setattr(forests, "TREES", 40)


@pytest.fixture(scope="module")
def features():
    """60 rows of four features, and three labels that are noisy thresholds of them."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 4)).astype(np.float32)
    y = x[:, :3] + 0.1 * generator.normal(size=(60, 3))
    return x, y, np.arange(45)


# what is learned from


def test_the_features_are_counts_and_descriptors():
    mols = molecules.parse_many(SMILES).mols
    table = replace(tiny.regression(7), smiles=tuple(SMILES))
    x = problem_of(table).features()
    assert x.dtype == np.float32
    assert x.shape == (7, 2048 + len(molecules.DESCRIPTORS))
    assert np.isfinite(x).all()
    for row, mol in zip(x, mols, strict=True):
        assert np.array_equal(row[:2048], molecules.morgan_counts(mol))
        expected = molecules.descriptors(mol)
        known = np.isfinite(expected)
        np.testing.assert_allclose(row[2048:][known], expected[known], rtol=1e-6)


def test_the_features_are_finite():
    values = np.array([[np.nan, np.inf, -np.inf, 1e300, 1.5]])
    problem = replace(labelled(np.zeros((1, 1)), "regression"), descriptors=values)
    limit = np.finfo(np.float32).max
    assert problem.features().tolist() == [[0, limit, -limit, limit, 1.5]]


def test_training_reads_molecules_once_for_model_and_forest(tmp_path, monkeypatch):
    monkeypatch.setenv("MOLSAM_CACHE", str(tmp_path / "cache"))
    made: list[str] = []
    for name in ("parse_many", "descriptors", "morgan_counts"):
        real = getattr(molecules, name)
        monkeypatch.setattr(
            molecules, name, lambda x, *_, n=name, f=real, **how: made.append(n) or f(x, **how)
        )
    recipe = tiny.recipe(epochs=1, **{"data.descriptors": True})
    with tiny.undrawn():
        for name in ("first", "again"):
            fit(recipe, tiny.regression(), out=tmp_path / name, baseline=True, processes=1)
    counts = {name: made.count(name) for name in set(made)}
    assert counts == {"parse_many": 1, "descriptors": 60, "morgan_counts": 60}


def test_the_forest_does_not_give_descriptors_to_a_model_without(tmp_path):
    with tiny.undrawn():
        plain, beside = (
            fit(tiny.recipe(), tiny.regression(), out=tmp_path / str(b), baseline=b)
            for b in (False, True)
        )
    assert tiny.same_weights(plain, beside)
    assert beside.scores.pop("random forest, test").keys() == plain.scores["test"].keys()
    assert plain.scores == {part: beside.scores[part] for part in ("valid", "test")}


@pytest.mark.parametrize("kind", ["regression", "binary"])
def test_only_known_training_labels_are_learned_from(features, kind):
    x, y, train = features
    y = y if kind == "regression" else (y > 0).astype(float)
    estimator = Ridge() if kind == "regression" else LogisticRegression()
    y[::7, 0] = np.nan
    found = fit_predict(estimator, x, labelled(y, kind), train)
    for t in range(3):
        rows = train[~np.isnan(y[train, t])]
        alone = estimator.fit(x[rows], y[rows, t])
        expected = alone.predict(x) if kind == "regression" else alone.predict_proba(x)[:, 1]
        np.testing.assert_allclose(found[:, t], expected)
    poisoned = y.copy()
    poisoned[45:] = 1 - poisoned[45:]
    assert np.array_equal(fit_predict(estimator, x, labelled(poisoned, kind), train), found)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_no_choice_depends_on_a_label_of_the_test_rows(name, kind):
    problem = problem_of(tiny.KINDS[kind]())
    poisoned = np.array(problem.y)
    poisoned[SPLIT.test] = np.random.default_rng(0).permutation(1 - poisoned[SPLIT.test])
    assert not np.array_equal(poisoned, problem.y, equal_nan=True)
    seen = predict(name, problem)
    other = predict(name, replace(problem, y=poisoned))
    held = np.concatenate([SPLIT.valid, SPLIT.test])
    assert np.isfinite(seen[held]).all()
    np.testing.assert_array_equal(seen[held], other[held])


def test_a_baseline_is_not_told_the_labels_of_the_test_rows(monkeypatch):
    seen = []
    spy = replace(BASELINES["rf"], fit=lambda problem, *_: seen.append(problem.y))
    monkeypatch.setitem(BASELINES, "rf", spy)
    problem = labelled(np.arange(60.0)[:, None], "regression")
    predict("rf", problem)
    assert np.isnan(seen[0][SPLIT.test]).all()
    assert np.array_equal(seen[0][:50], problem.y[:50])
    assert not np.isnan(problem.y).any()


# what is predicted


def test_classes_without_a_training_row_have_no_probability(features):
    x, y, train = features
    classes = np.digitize(y, [-0.5, 0.5]).astype(float)
    classes[train] = np.where(classes[train] == 1, np.nan, classes[train])
    found = fit_predict(LogisticRegression(), x, labelled(classes, "multiclass", 3), train)
    assert found.shape == (60, 3, 3)
    assert (found[..., 1] == 0).all()
    np.testing.assert_allclose(found.sum(-1), 1)
    for t in range(3):
        rows = train[~np.isnan(classes[train, t])]
        expected = LogisticRegression().fit(x[rows], classes[rows, t]).predict_proba(x)
        np.testing.assert_allclose(found[:, t, [0, 2]], expected)


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_a_task_of_one_class_predicts_it(features, constant):
    x, y, train = features
    y = (y > 0).astype(float)
    y[train, 1] = np.where(np.arange(len(train)) % 3, constant, np.nan)
    found = fit_predict(LogisticRegression(), x, labelled(y, "binary"), train)
    assert (found[:, 1] == constant).all()
    assert len(np.unique(found[:, 0])) > 10


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_a_task_without_a_training_label_is_refused(features, kind):
    x, y, train = features
    y = (y > 0).astype(float)
    y[train, 1] = np.nan
    with pytest.raises(BaselineError, match="no training row has a label for task 1; leave it"):
        fit_predict(DummyClassifier(), x, labelled(y, kind, 2), train)
    problem = replace(problem_of(tiny.multilabel()), y=y.astype(float), kind=kind, classes=2)
    for name in BUILT_IN:
        with pytest.raises(BaselineError, match="no training row has a label for task 1"):
            predict(name, problem, Split(train, np.arange(45, 50), np.arange(50, 60)))


@pytest.mark.parametrize(
    ("kind", "estimator"),
    [
        ("regression", HistGradientBoostingRegressor(max_iter=5)),
        ("regression", make_pipeline(StandardScaler(), SVR())),
        ("binary", HistGradientBoostingClassifier(max_iter=5)),
    ],
)
def test_any_estimator_serves(features, kind, estimator):
    x, y, train = features
    y = y if kind == "regression" else (y > 0).astype(float)
    assert fit_predict(estimator, x, labelled(y, kind), train).shape == (60, 3)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_baseline_serves_every_kind(name, kind):
    problem = problem_of(tiny.KINDS[kind]())
    found = predict(name, problem)
    shape = problem.y.shape
    assert found.shape == ((*shape, 3) if kind == "multiclass" else shape)
    held = found[np.concatenate([SPLIT.valid, SPLIT.test])]
    assert np.isfinite(held).all()
    if kind != "regression":
        assert held.min() >= 0
        assert held.max() <= 1
    if kind == "multiclass":
        np.testing.assert_allclose(held.sum(axis=-1), 1)


@pytest.mark.parametrize("name", ["rf", "svm-rbf"])
def test_baselines_reproduce_from_their_seed(name):
    problem = problem_of(tiny.regression())
    first, again, other = (predict(name, problem, seed=s) for s in (3, 3, 4))
    np.testing.assert_allclose(first, again, rtol=1e-12)
    assert np.allclose(first, other, rtol=1e-6, equal_nan=True) == (name == "svm-rbf")


@pytest.mark.parametrize("name", BUILT_IN)
def test_baselines_learn_solubility(name, moleculenet):
    table = datasets.load("esol", data_dir=moleculenet).take(slice(None, None, 4))
    problem = problem_of(table)
    split = splits.random(len(table), 0, (0.7, 0.1, 0.2))
    found = predict(name, problem, split)
    error = metrics.score("rmse", table.y[split.test], found[split.test], table.tasks).mean
    assert error < 0.7 * table.y[split.test].std()


@pytest.mark.parametrize("name", BUILT_IN)
def test_baselines_learn_permeability(name, moleculenet):
    table = datasets.load("bbbp", data_dir=moleculenet).take(slice(None, None, 6))
    read = reading.read(table.smiles, None, descriptors=True, fingerprints=True, keep=True)
    table = table.take(read.index)
    problem = Problem.of(table, read)
    split = splits.stratified(table.y, 0, (0.6, 0.1, 0.3))
    found = predict(name, problem, split)
    assert metrics.score("roc_auc", table.y[split.test], found[split.test], ["p_np"]).mean > 0.75


# kernels


def best_regressor_twin(problem: Problem, split: Split, kernels: list[np.ndarray]) -> np.ndarray:
    """Every setting tried in plain loops; the first with the lowest validation RMSE."""
    y, best = problem.y[:, 0], (np.inf, np.empty(0))
    center, scale = y[split.train].mean(), y[split.train].std()
    for kernel, c, e in product(kernels, machines.COSTS, machines.TUBES):
        machine = SVR(kernel="precomputed", C=c, epsilon=e)
        machine.fit(kernel[split.train].astype(float), (y[split.train] - center) / scale)
        found = machine.predict(kernel.astype(float)) * scale + center
        error = np.sqrt(np.mean((found[split.valid] - y[split.valid]) ** 2))
        if error < best[0]:
            best = error, found
    return best[1]


def test_validation_chooses_the_regressor():
    problem = problem_of(tiny.regression())
    counts = problem.fingerprints
    kernels = [min_max_kernel(counts, counts[SPLIT.train]) ** p for p in (1, 8)]
    found = machines.best_machine(problem, SPLIT, "rmse", kernels)[:, 0]
    expected = best_regressor_twin(problem, SPLIT, kernels)
    np.testing.assert_allclose(found[40:], expected[40:], rtol=1e-6)
    assert np.isnan(found[:40]).all()


def test_validation_chooses_one_setting_for_all_tasks():
    """With missing labels, by the mean score over tasks; probabilities rank as decisions do."""
    problem = problem_of(tiny.multilabel())
    kernel = min_max_kernel(problem.fingerprints, problem.fingerprints[SPLIT.train])
    found = machines.best_machine(problem, SPLIT, "roc_auc", [kernel])
    scores = []
    for c, weight in product(machines.COSTS, machines.WEIGHTS):
        columns = []
        for t in range(3):
            known = np.flatnonzero(~np.isnan(problem.y[:40, t]))
            machine = SVC(kernel="precomputed", C=c, class_weight=weight)
            machine.fit(kernel[np.ix_(known, known)].astype(float), problem.y[known, t])
            decision = machine.decision_function(kernel[:, known].astype(float))
            columns.append(1 / (1 + np.exp(-decision)))
        each = np.stack(columns, axis=1)
        value = metrics.score("roc_auc", problem.y[40:50], each[40:50], problem.tasks).mean
        scores.append((value, each))
    best = max(scores, key=lambda pair: pair[0])  # the first of equal ones
    np.testing.assert_allclose(found[40:], best[1][40:], rtol=1e-6)


def test_without_a_score_on_validation_the_first_setting_serves():
    problem = problem_of(tiny.binary())
    y = np.array(problem.y)
    y[SPLIT.valid] = 1
    kernel = min_max_kernel(problem.fingerprints, problem.fingerprints[SPLIT.train])
    found = machines.best_machine(replace(problem, y=y), SPLIT, "roc_auc", [kernel])
    assert np.isfinite(found[40:]).all()


@pytest.mark.parametrize("name", ["svm-tanimoto", "svm-rbf", "gp"])
def test_a_large_table_is_declined_at_once(name, monkeypatch):
    room = processes if name == "gp" else machines
    monkeypatch.setattr(room, "MOST_ROWS", 59)
    problem = problem_of(tiny.regression())
    with pytest.raises(BaselineError, match=f"{name} cannot be made: it serves up to 59 mol"):
        predict(name, problem)
    monkeypatch.setattr(room, "MOST_ROWS", 60)
    assert room.unserved(problem) == ""


# the process alone


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_process_alone_is_the_one_of_a_run(kind, tmp_path):
    table = tiny.KINDS[kind]()
    with tiny.undrawn():
        run = fit(tiny.recipe(epochs=1, gaussian_process=True), table, out=tmp_path / "run")
    split = splits.from_json(tmp_path / "run" / "split.json")
    problem = problem_of(table)
    inputs = Inputs(problem.fingerprints, problem.descriptors)
    assert run.process is not None
    found = predict("gp", problem, split)
    np.testing.assert_allclose(found, run.process.predict(inputs), rtol=1e-6)


# chemprop

FAKE = """#!{python}
import csv, json, pathlib, sys
words = sys.argv[1:]
options = {{a: b for a, b in zip(words, words[1:]) if a.startswith("--")}}
with open({log!r}, "a") as log:
    log.write(json.dumps(words) + "\\n")
if words[0] == "train":
    rows = list(csv.DictReader(open(options["--data-path"])))
    pathlib.Path({folder!r}, "data.json").write_text(json.dumps(rows))
    if {fails}:
        sys.exit("no luck")
    model = pathlib.Path(options["--output-dir"], "model_0")
    model.mkdir(parents=True)
    (model / "best.pt").write_text("weights")
else:
    assert pathlib.Path(options["--model-paths"]).read_text() == "weights"
    rows = list(csv.DictReader(open(options["--test-path"])))
    with open(options["--preds-path"], "w") as file:
        writer = csv.writer(file)
        writer.writerow(["smiles", "y0"])
        writer.writerows([row["smiles"], len(row["smiles"])] for row in rows)
"""


@pytest.fixture
def fake_chemprop(tmp_path, monkeypatch):
    """A program called chemprop that predicts the length of a SMILES and says what it was given."""

    def install(fails: bool = False):
        text = FAKE.format(
            python=sys.executable, log=str(tmp_path / "log"), folder=str(tmp_path), fails=fails
        )
        program = tmp_path / "bin" / "chemprop"
        program.parent.mkdir()
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return tmp_path

    return install


@pytest.mark.parametrize("name", ["chemprop", "chemprop-rdkit"])
def test_chemprop_gets_our_split_and_no_test_row(name, fake_chemprop):
    folder = fake_chemprop()
    problem = problem_of(tiny.regression())
    split = Split(np.arange(40), np.arange(40, 50), np.arange(52, 60))
    found = predict(name, problem, split, seed=7)
    data = pd.read_json(folder / "data.json", dtype=False)
    mols = molecules.parse_many(problem.smiles).mols
    texts = np.array(list(map(molecules.canonical_smiles, mols)))
    assert data["split"].tolist() == ["train"] * 40 + ["val"] * 10
    assert data["smiles"].tolist() == texts[:50].tolist()
    np.testing.assert_allclose(data["y0"].astype(float), problem.y[:50, 0])
    held = [*range(40, 50), *range(52, 60)]
    assert found[held, 0].tolist() == [len(text) for text in texts[held]]
    assert np.isnan(np.delete(found, held, axis=0)).all()
    for words in map(pd.io.json.ujson_loads, (folder / "log").read_text().splitlines()):
        assert ("v1_rdkit_2d_normalized" in words) == (name == "chemprop-rdkit")
        if words[0] == "train":
            assert words[words.index("--task-type") + 1] == "regression"
            assert words[words.index("--pytorch-seed") + 1] == "7"


def test_chemprop_that_fails_says_why(fake_chemprop):
    fake_chemprop(fails=True)
    with pytest.raises(BaselineError, match="chemprop train failed: no luck; leave chemprop out"):
        predict("chemprop", problem_of(tiny.regression()))


def test_chemprop_is_declined_where_it_cannot_serve(fake_chemprop, monkeypatch):
    problem = problem_of(tiny.multiclass())
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        with pytest.raises(BaselineError, match="it is not installed; put its command on the PATH"):
            predict("chemprop", problem)
    fake_chemprop()
    with pytest.raises(BaselineError, match="on values and on two classes, not on several"):
        predict("chemprop", problem)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chemprop") is None, reason="chemprop is not installed")
@pytest.mark.parametrize("name", ["chemprop", "chemprop-rdkit"])
@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_chemprop_itself(name, kind):
    problem = problem_of(tiny.KINDS[kind]())
    found = predict(name, problem)
    assert np.isfinite(found[40:]).all()
    assert BASELINES[name].versions().startswith("chemprop ")
    if kind != "regression":
        assert found[40:].min() >= 0
        assert found[40:].max() <= 1
