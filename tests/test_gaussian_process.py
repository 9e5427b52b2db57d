"""The Gaussian process on counts and descriptors: its formulas, and runs that have one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import pairwise

from molsam import Run, datasets, fit, gaussian_process, metrics, molecules, reading, training
from molsam.files import RunError, read_json
from molsam.gaussian_process import MIXES, NOISES, SHARE, GaussianProcess, Inputs
from molsam.kernels import min_max_kernel
from molsam.runs import FIRST_MEMBER, MODELS_ALONE, PROCESS
from molsam.scaling import DescriptorScaler
from molsam.tuning.objective import FIRST_SEED, Objective

TRAIN, REST = np.arange(40), np.arange(40, 60)


def inputs_of(table: datasets.MoleculeTable) -> Inputs:
    read = reading.read(table.smiles, None, descriptors=True, fingerprints=True)
    assert read.fingerprints is not None
    assert read.descriptors is not None
    return Inputs(read.fingerprints, read.descriptors)


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return inputs_of(tiny.regression())


# The process


def kernel_of(inputs: Inputs, mix: float) -> np.ndarray:
    """Of the training molecules with all, in double precision: (60, 40)."""
    scaler = DescriptorScaler.fit(inputs.descriptors[TRAIN], "ranked")
    x = scaler.transform(inputs.descriptors)
    gamma = 1 / (x.shape[1] * x[TRAIN].var())
    tanimoto = min_max_kernel(inputs.counts, inputs.counts[TRAIN])
    return (1 - mix) * tanimoto + mix * pairwise.rbf_kernel(x.astype(float), x[TRAIN], gamma)


def ridge(kernel: np.ndarray, y: np.ndarray, noise: float, asked: np.ndarray) -> np.ndarray:
    """The same mean by scikit-learn's kernel ridge regression of centred labels."""
    machine = KernelRidge(alpha=noise, kernel="precomputed")
    return machine.fit(kernel, y - y.mean()).predict(asked) + y.mean()


def left_out_error(kernel: np.ndarray, y: np.ndarray, noise: float) -> float:
    """Squared error where each molecule in turn is left out; the center stays that of all."""
    errors = []
    for i in range(len(y)):
        others = np.delete(np.arange(len(y)), i)
        machine = KernelRidge(alpha=noise, kernel="precomputed")
        machine.fit(kernel[np.ix_(others, others)], y[others] - y.mean())
        errors.append(machine.predict(kernel[i : i + 1, others])[0] + y.mean() - y[i])
    return float(np.mean(np.square(errors)))


@pytest.mark.parametrize("target", ["table", "ring"])
def test_it_is_kernel_ridge_regression_with_what_leaves_one_out_best(inputs, target):
    """Of a number that is a descriptor's and of one that is a fragment's: mixes differ."""
    y = tiny.regression().y[:, 0].astype(float)
    if target == "ring":
        y = np.log1p(inputs.counts).sum(axis=1) + np.random.default_rng(0).normal(size=60)
    process = GaussianProcess.fit(inputs.take(TRAIN), y[TRAIN, None])
    errors = {}
    for mix in MIXES:
        kernel = kernel_of(inputs, mix)[TRAIN]
        errors |= {(mix, noise): left_out_error(kernel, y[TRAIN], noise) for noise in NOISES}
    mix, noise = min(errors, key=errors.__getitem__)
    assert process.mix == [mix]
    kernel = kernel_of(inputs, mix)
    expected = ridge(kernel[TRAIN], y[TRAIN], noise, kernel[REST])
    np.testing.assert_allclose(process.predict(inputs.take(REST))[:, 0], expected, rtol=1e-4)


def test_a_task_learns_of_its_own_labels_alone(inputs):
    """Scales of descriptors are those of all training rows, labelled or not."""
    y = tiny.multilabel().y[TRAIN].astype(float)
    assert np.isnan(y).any(axis=0).all()
    process = GaussianProcess.fit(inputs.take(TRAIN), y, classes=2)
    together = process.predict(inputs)
    for task in range(y.shape[1]):
        other = y.copy()
        other[:, np.arange(y.shape[1]) != task] = 1
        alone = GaussianProcess.fit(inputs.take(TRAIN), other, classes=2).predict(inputs)
        np.testing.assert_allclose(together[:, task], alone[:, task], rtol=1e-9)
    assert ((together > 0) & (together <= 1)).all()
    missing = np.isnan(y)
    assert (process.alpha[missing] == 0).all()
    assert (process.alpha[~missing] != 0).all()


def test_each_of_several_classes_is_regressed_on(inputs):
    y = tiny.multiclass().y.astype(float)
    y[3] = np.nan
    found = GaussianProcess.fit(inputs, y, classes=3).predict(inputs)
    assert found.shape == (60, 1, 3)
    np.testing.assert_allclose(found.sum(-1), 1)
    each = np.hstack([np.where(np.isnan(y), np.nan, y == c) for c in range(3)])
    raw = GaussianProcess.fit(inputs, each).predict(inputs).clip(1e-6, 1)
    np.testing.assert_allclose(found[:, 0], raw / raw.sum(1, keepdims=True), rtol=1e-6)


def test_some_of_many_rows_choose_and_all_are_fitted(inputs, monkeypatch):
    y = tiny.regression().y.astype(float)
    monkeypatch.setattr(gaussian_process, "CHOSEN_BY", 20)
    seen, keep = [], gaussian_process._left_out_errors
    monkeypatch.setattr(
        gaussian_process, "_left_out_errors", lambda k, y: seen.append(len(y)) or keep(k, y)
    )
    some = GaussianProcess.fit(inputs, y)
    assert seen == [20] * len(MIXES)
    assert (some.alpha != 0).all()
    for noise in NOISES:  # one of them is the one that was chosen, and all rows fit it
        monkeypatch.setattr(gaussian_process, "NOISES", (noise,))
        monkeypatch.setattr(gaussian_process, "MIXES", (some.mix.item(),))
        if np.allclose(GaussianProcess.fit(inputs, y).alpha, some.alpha, rtol=1e-9):
            return
    pytest.fail("no noise gives what was fitted")


def test_many_are_predicted_in_parts(inputs, monkeypatch):
    process = GaussianProcess.fit(inputs, tiny.multilabel().y, classes=2)
    whole = process.predict(inputs)
    monkeypatch.setattr(gaussian_process, "AT_ONCE", 7)
    np.testing.assert_allclose(process.predict(inputs), whole, rtol=1e-5, atol=1e-6)
    assert process.predict(inputs.take(np.arange(0))).shape == (0, 3)


def test_labels_that_never_differ_are_predicted(inputs):
    process = GaussianProcess.fit(inputs.take(TRAIN), np.full((40, 1), 7.0))
    np.testing.assert_allclose(process.predict(inputs), 7)


def test_what_was_saved_predicts_the_same(inputs, tmp_path):
    process = GaussianProcess.fit(inputs.take(TRAIN), tiny.multilabel().y[TRAIN], classes=2)
    assert len(set(process.mix)) > 1
    process = replace(process, share=0.3)
    process.save(tmp_path / PROCESS)
    loaded = GaussianProcess.load(tmp_path / PROCESS)
    np.testing.assert_array_equal(loaded.predict(inputs), process.predict(inputs))
    assert (loaded.share, loaded.classes) == (0.3, 2)


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
    train, inputs = np.array(rows_of(run)["train"]), inputs_of(table)
    f = GaussianProcess.fit(inputs.take(train), table.y[train], table.outcomes).predict(inputs)
    packed = reading.read(table.smiles, run.recipe.data.featurizer).packed
    models = run.predict_each(packed).mean(axis=0)
    mean, _ = run.predict_mols(molecules.parse_many(table.smiles).mols)
    np.testing.assert_allclose(mean, (1 - SHARE) * models + SHARE * f, rtol=1e-5, atol=1e-6)
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
