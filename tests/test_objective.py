"""What a trial is worth: the validation score of its recipe, and no test label in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
from kill_tunes import outcome, tune
from studied import score_of

from molsam import MoleculeTable, Recipe, fit, preparation
from molsam.recipes import DataConfig
from molsam.tuning import FIRST_SEED, Objective, TrialError

pytestmark = pytest.mark.usefixtures("quick")

FOUND = {"regression": "rmse", "binary": "roc_auc", "multiclass": "accuracy"}


@pytest.mark.parametrize("kind", FOUND)
def test_a_score_is_the_validation_score_of_train(kind, tmp_path):
    recipe, table = tiny.recipe(epochs=3, descriptors=True), tiny.KINDS[kind]()
    for repeat in (0, 1):
        run = fit(recipe, table, out=tmp_path / f"run-{repeat}", seed=FIRST_SEED + repeat)
        found = score_of(recipe, table, tmp_path, repeat)
        assert found == pytest.approx(run.scores["valid"][FOUND[kind]]["mean"], abs=1e-6)
        history = tiny.history(run)
        assert found == pytest.approx(history[f"valid_{FOUND[kind]}"][history["kept"]].iloc[-1])


def test_a_score_of_an_ensemble_is_that_of_its_mean(tmp_path):
    recipe = tiny.recipe(epochs=2, members=2, patience=1, metric="mae")
    run = fit(recipe, tiny.regression(), out=tmp_path / "run", seed=FIRST_SEED)
    expected = run.scores["valid"]["mae"]["mean"]
    assert score_of(recipe, tiny.regression(), tmp_path) == pytest.approx(expected, abs=1e-6)


def test_a_score_leaves_nothing_on_disk_and_does_not_touch_the_random_state(tmp_path):
    import torch

    before = torch.get_rng_state()
    score_of(tiny.recipe(epochs=1), tiny.regression(), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(before, torch.get_rng_state())


def poisoned(table: MoleculeTable, objective: Objective, choices: DataConfig, repeat: int, *parts):
    """`table` with other labels in some parts of a split."""
    y = table.y.copy()
    for part in parts:
        index = getattr(objective.prepare(choices, repeat).split, part)
        y[index] = 1 - y[index] if table.kind == "binary" else 1000.0 * (1 + y[index])
    return replace(table, y=y)


@pytest.mark.parametrize("kind", ["regression", "binary"])
@pytest.mark.parametrize("split", ["random", "balanced_scaffold"])
def test_no_label_of_a_test_row_reaches_an_objective(split, kind, tmp_path):
    fields = {"data.split": split, "class_weights": kind == "binary", "optimizer.lr": 0.01}
    fields["gaussian_process"] = split == "random"
    recipe = tiny.recipe(epochs=2, descriptors=True, **fields)
    table = tiny.KINDS[kind]()
    clean = Objective(table, recipe)
    for repeat in (0, 1):
        expected = clean.score(recipe, repeat, tmp_path, None)
        other = poisoned(table, clean, recipe.data, repeat, "test")
        assert not np.array_equal(other.y, table.y)
        assert score_of(recipe, other, tmp_path, repeat) == expected
        for part in ("train", "valid"):  # the poison works
            bad = poisoned(table, clean, recipe.data, repeat, part)
            assert score_of(recipe, bad, tmp_path, repeat) != expected


def test_test_labels_are_missing_once_the_rows_are_split_and_scales_do_not_know_them():
    recipe, table = tiny.recipe(), tiny.regression()
    objective = Objective(table, recipe)
    prepared = objective.prepare(recipe.data, 0)
    assert np.isnan(prepared.table.y[prepared.split.test]).all()
    for part in ("train", "valid"):
        index = getattr(prepared.split, part)
        assert np.array_equal(prepared.table.y[index], table.y[index])
    mean = preparation.fit_scalers(prepared, recipe.data).target.to_dict()
    bad = poisoned(table, objective, recipe.data, 0, "test", "valid")
    hidden = Objective(bad, recipe).prepare(recipe.data, 0)
    again = preparation.fit_scalers(hidden, recipe.data).target.to_dict()
    assert mean == again
    assert not np.isnan(objective.table.y).any()  # the table itself stays as it was


def test_a_whole_study_is_the_same_with_other_test_labels(whole, tmp_path):
    """One split for all, so that its test rows are no training rows of another."""
    fields = {"data.split_seed": 5}
    clean = tune(tmp_path / "clean", recipe=tiny.recipe(epochs=1, **fields), trials=3)
    objective = Objective(tiny.regression(), tiny.recipe())
    bad = poisoned(tiny.regression(), objective, DataConfig(split_seed=5), 0, "test")
    other = tune(tmp_path / "bad", recipe=tiny.recipe(epochs=1, **fields), table=bad, trials=3)
    assert outcome(clean) == outcome(other)
    assert other.request.digest != clean.request.digest


def test_splits_of_studies_are_not_those_of_final_runs():
    for choices in (
        DataConfig(), DataConfig(split="balanced_scaffold"), DataConfig(split="k_fold")
    ):  # fmt: skip
        objective = Objective(tiny.regression(), Recipe(data=choices))
        final = [preparation.prepare(tiny.regression(), choices, seed=s).split for s in range(5)]
        tuned = [objective.prepare(choices, repeat).split for repeat in range(5)]
        assert not any(a == b for a in final for b in tuned)
        assert not any(a == b for i, a in enumerate(tuned) for b in tuned[:i])


def test_molecules_are_read_once_for_each_featurizer(monkeypatch, tmp_path):
    read, calls = preparation.read_rows, []
    monkeypatch.setattr(
        preparation, "read_rows", lambda table, choices, **how: calls.append(choices.featurizer)
        or read(table, choices, **how)
    )  # fmt: skip
    objective = Objective(tiny.regression(), tiny.recipe(), searched=["data.descriptors"])
    for name in ("compt", "canonical", "compt"):
        for joined in (True, False):
            choices = DataConfig(featurizer=name, descriptors=joined)  # type: ignore[arg-type]
            prepared = objective.prepare(choices, 0)
            assert prepared.descriptors is not None
            scalers = preparation.fit_scalers(prepared, choices)
            assert (scalers.descriptors is not None) == joined
    assert calls == ["compt", "canonical"]


def test_a_split_that_cannot_be_judged_is_refused_before_any_trial(tmp_path):
    table = tiny.binary()
    rare = tiny.relabel((np.arange(len(table)) < 3)[:, None].astype(float), "binary")
    with pytest.raises(TrialError, match=r"roc_auc cannot judge the validation rows of split seed"):
        tune(tmp_path / "study", table=rare)
    assert not (tmp_path / "study").exists()
