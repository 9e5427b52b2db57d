"""The Gaussian process on Morgan counts: its formulas, its share, and runs that have one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rdkit.Chem import rdFingerprintGenerator
from rdkit.DataStructs import TanimotoSimilarity
from sklearn.kernel_ridge import KernelRidge

from molsam import Run, datasets, fit, gaussian_process, metrics, molecules, reading, training
from molsam.files import RunError, read_json
from molsam.gaussian_process import NOISES, SHARES, GaussianProcess, min_max_kernel
from molsam.runs import FIRST_MEMBER, MODELS_ALONE, PROCESS
from molsam.tuning.objective import FIRST_SEED, Objective

SMILES = ["CCO", "c1ccccc1", "C", "[Na+].[Cl-]", "CC(=O)Oc1ccccc1C(=O)O", "[Fe+2]", "C" * 60]
TRAIN, REST = np.arange(40), np.arange(40, 60)


def counts_of(table: datasets.MoleculeTable) -> np.ndarray:
    counts = reading.read(table.smiles, None, fingerprints=True).fingerprints
    assert counts is not None
    return counts


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    return counts_of(tiny.regression())


# The kernel


def min_max_twin(a: np.ndarray, b: np.ndarray) -> float:
    smaller = sum(min(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True))
    larger = sum(max(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return smaller / larger if larger else 1.0


COUNTS = arrays(np.uint16, st.tuples(st.integers(1, 7), st.just(5)), elements=st.integers(0, 9))


@given(COUNTS, COUNTS, st.integers(1, 4))
def test_the_min_max_kernel_is_its_formula(a, b, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gaussian_process, "BLOCK", block)
        found = min_max_kernel(a, b)
    expected = [[min_max_twin(x, y) for y in b] for x in a]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_min_max_kernel_is_rdkits_tanimoto_similarity():
    smiles = [*SMILES, *tiny.regression(20).smiles]
    mols = molecules.parse_many(smiles).mols
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = [generator.GetCountFingerprint(mol) for mol in mols]
    counts = np.stack([molecules.morgan_counts(mol) for mol in mols]).astype(np.uint16)
    found = min_max_kernel(counts, counts[:9])
    expected = [[TanimotoSimilarity(p, q) for q in prints[:9]] for p in prints]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# The process


def ridge(counts: np.ndarray, y: np.ndarray, noise: float, asked: np.ndarray) -> np.ndarray:
    """The same mean by scikit-learn's kernel ridge regression of centred labels."""
    machine = KernelRidge(alpha=noise, kernel="precomputed")
    machine.fit(min_max_kernel(counts, counts).astype(float), y - y.mean())
    return machine.predict(min_max_kernel(asked, counts).astype(float)) + y.mean()


def left_out_error(counts: np.ndarray, y: np.ndarray, noise: float) -> float:
    """Squared error where each molecule in turn is left out; the center stays that of all."""
    kernel, errors = min_max_kernel(counts, counts).astype(float), []
    for i in range(len(y)):
        others = np.delete(np.arange(len(y)), i)
        machine = KernelRidge(alpha=noise, kernel="precomputed")
        machine.fit(kernel[np.ix_(others, others)], y[others] - y.mean())
        errors.append(machine.predict(kernel[i : i + 1, others])[0] + y.mean() - y[i])
    return float(np.mean(np.square(errors)))


def test_it_is_kernel_ridge_regression_with_the_noise_that_leaves_one_out_best(counts):
    y = tiny.regression().y.astype(float)
    found = GaussianProcess.fit(counts[TRAIN], y[TRAIN]).predict(counts[REST])
    errors = {noise: left_out_error(counts[TRAIN], y[TRAIN, 0], noise) for noise in NOISES}
    noise = min(errors, key=errors.__getitem__)
    assert NOISES[0] < noise < NOISES[-1]
    expected = ridge(counts[TRAIN], y[TRAIN, 0], noise, counts[REST])
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


def test_a_task_learns_of_its_own_labels_alone(counts):
    y = tiny.multilabel().y[TRAIN].astype(float)
    assert np.isnan(y).any(axis=0).all()
    together = GaussianProcess.fit(counts[TRAIN], y, classes=2).predict(counts)
    for task, known in enumerate((~np.isnan(y)).T):
        alone = GaussianProcess.fit(counts[TRAIN][known], y[known][:, [task]], classes=2)
        np.testing.assert_allclose(together[:, [task]], alone.predict(counts), rtol=1e-9)
    assert ((together > 0) & (together <= 1)).all()


def test_each_of_several_classes_is_regressed_on(counts):
    y = tiny.multiclass().y.astype(float)
    y[3] = np.nan
    found = GaussianProcess.fit(counts, y, classes=3).predict(counts)
    assert found.shape == (60, 1, 3)
    np.testing.assert_allclose(found.sum(-1), 1)
    known = np.flatnonzero(~np.isnan(y[:, 0]))
    each = np.hstack([(y[known] == c).astype(float) for c in range(3)])
    raw = GaussianProcess.fit(counts[known], each).predict(counts).clip(1e-6, 1)
    np.testing.assert_allclose(found[:, 0], raw / raw.sum(1, keepdims=True), rtol=1e-6)


def test_labels_that_never_differ_are_predicted(counts):
    process = GaussianProcess.fit(counts[TRAIN], np.full((40, 1), 7.0))
    np.testing.assert_allclose(process.predict(counts), 7)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_share_is_the_best_of_all(kind, counts):
    table = tiny.KINDS[kind]()
    process = GaussianProcess.fit(counts[TRAIN], table.y[TRAIN].astype(float), table.outcomes)
    f, metric = process.predict(counts[REST]), metrics.default_metric(table.kind)
    noise = np.random.default_rng(0).normal(size=f.shape)
    models = f + noise if table.kind == "regression" else abs(noise) / (1 + abs(noise))
    y, tasks = table.y[REST], table.tasks
    found = process.sharing(models, counts[REST], y, metric).share
    scores = [metrics.score(metric, y, (1 - s) * models + s * f, tasks).mean for s in SHARES]
    best = max(scores) if metrics.METRICS[metric].greater_is_better else min(scores)
    assert found == SHARES[scores.index(best)]


def test_perfect_models_share_nothing(counts):
    y = tiny.regression().y
    process = GaussianProcess.fit(counts[TRAIN], y[TRAIN].astype(float))
    assert process.sharing(y[REST], counts[REST], y[REST], "rmse").share == 0
    f = process.predict(counts)
    assert process.sharing(y - 100, counts, f, "rmse").share == 1


def test_what_was_saved_predicts_the_same(counts, tmp_path):
    process = replace(GaussianProcess.fit(counts[TRAIN], tiny.regression().y[TRAIN]), share=0.3)
    process.save(tmp_path / PROCESS)
    loaded = GaussianProcess.load(tmp_path / PROCESS)
    np.testing.assert_array_equal(loaded.predict(counts), process.predict(counts))
    assert (loaded.share, loaded.classes) == (0.3, 0)


# Runs


@pytest.fixture(scope="module", params=tiny.KINDS)
def trained(request, tmp_path_factory) -> tuple[datasets.MoleculeTable, Run]:
    """A tiny run that has one: its two models have learnt next to nothing."""
    return made(tiny.KINDS[request.param](), tmp_path_factory.mktemp("run"), members=2)


def made(table: datasets.MoleculeTable, folder: Path, **fields: Any) -> tuple[Any, Run]:
    recipe = tiny.recipe(epochs=1, fractions=(0.5, 0.3, 0.2), gaussian_process=True)
    with tiny.undrawn():
        return table, fit(recipe.change(fields), table, out=folder / "run")


def rows_of(run: Run) -> dict[str, list[int]]:
    return read_json(run.folder / "split.json")


def test_a_run_predicts_by_models_and_process(trained):
    """What it predicts is made of its models and of a process that is fitted anew here."""
    table, run = trained
    train, counts = rows_of(run)["train"], counts_of(table)
    f = GaussianProcess.fit(counts[train], table.y[train], table.outcomes).predict(counts)
    packed = reading.read(table.smiles, run.recipe.data.featurizer).packed
    models, share = run.predict_each(packed).mean(axis=0), run.process.share
    mean, _ = run.predict_mols(molecules.parse_many(table.smiles).mols)
    assert share > 0
    np.testing.assert_allclose(mean, (1 - share) * models + share * f, rtol=1e-5, atol=1e-6)
    for which, prediction in (("", mean), (MODELS_ALONE, models)):
        for part in ("valid", "test"):
            rows = rows_of(run)[part]
            expected = metrics.score_all(table.kind, table.y[rows], prediction[rows], table.tasks)
            for metric, found in run.scores[which + part].items():
                assert found["mean"] == pytest.approx(expected[metric]["mean"], nan_ok=True)
    assert f"{FIRST_MEMBER}test" in run.scores


def test_a_process_leaves_the_models_as_they_are(trained, tmp_path):
    table, run = trained
    _, alone = made(table, tmp_path, members=2, gaussian_process=False)
    assert alone.process is None
    assert tiny.same_weights(alone, run)
    for name, score in alone.scores["test"].items():
        found = run.scores[f"{MODELS_ALONE}test"][name]
        assert found["mean"] == pytest.approx(score["mean"], nan_ok=True)


def test_other_test_labels_change_no_prediction(tmp_path):
    table, run = made(tiny.regression(), tmp_path / "clean")
    y = table.y.copy()
    y[rows_of(run)["test"]] = 1000
    _, other = made(replace(table, y=y), tmp_path / "poisoned")
    pd.testing.assert_frame_equal(run.predict(tiny.DRUGS), other.predict(tiny.DRUGS))
    assert run.scores["valid"] == other.scores["valid"]
    y[rows_of(run)["train"]] = 1000 + np.arange(30)[:, None]  # the poison works
    _, bad = made(replace(table, y=y), tmp_path / "bad")
    assert not run.predict(tiny.DRUGS).equals(bad.predict(tiny.DRUGS))


def test_models_that_need_no_help_get_none(tmp_path, monkeypatch):
    keep = GaussianProcess.sharing
    monkeypatch.setattr(
        GaussianProcess, "sharing", lambda self, *given: replace(keep(self, *given), share=0.0)
    )
    _, run = made(tiny.regression(), tmp_path)
    assert run.process is None
    assert run.scores["test"] == run.scores[f"{MODELS_ALONE}test"]
    assert run.predict(tiny.DRUGS)["error"].eq("").all()


def test_a_table_too_large_for_its_matrices_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "MOST_ROWS", 30)
    assert made(tiny.regression(), tmp_path / "most")[1].process is not None
    monkeypatch.setattr(training, "MOST_ROWS", 29)
    _, run = made(tiny.regression(), tmp_path / "more")
    assert run.process is None
    assert run.scores["test"] == run.scores[f"{MODELS_ALONE}test"]


def test_a_process_is_under_the_seal(tmp_path):
    _, run = made(tiny.regression(), tmp_path)
    path = run.folder / PROCESS
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + bytes(8))
    with pytest.raises(RunError, match=f"{PROCESS} was changed"):
        Run.load(run.folder)
    path.unlink()
    with pytest.raises(RunError, match=f"{PROCESS} is missing"):
        Run.load(run.folder)


def test_a_trial_may_have_one(tmp_path):
    """Searched, it is in the score of a trial as in that of the run with the same seed."""
    recipe = tiny.recipe(epochs=1)
    objective = Objective(tiny.regression(), recipe, searched=["training.gaussian_process"])
    for having in (False, True):
        chosen = recipe.change({"gaussian_process": having})
        with tiny.undrawn():
            run = fit(chosen, tiny.regression(), out=tmp_path / str(having), seed=FIRST_SEED)
        found = objective.score(chosen, 0, tmp_path, None)
        assert found == pytest.approx(run.scores["valid"][objective.metric]["mean"], abs=1e-6)
