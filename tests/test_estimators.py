"""Recipes as scikit-learn estimators."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from molsam import MolSAMClassifier, MolSAMFeaturizer, MolSAMRegressor, Recipe, Run, fit
from molsam.molecules import InvalidMolecule
from molsam.recipes import RecipeError

pytestmark = pytest.mark.usefixtures("undrawn")

TABLE = tiny.lengths(60)
SMILES, LENGTHS = list(TABLE.smiles), TABLE.y[:, 0]
LONG = np.where(np.median(LENGTHS) < LENGTHS, "long", "short")
SIZES = np.digitize(LENGTHS, np.quantile(LENGTHS, [1 / 3, 2 / 3])) * 10
BOTH = np.column_stack([LENGTHS, -LENGTHS])


def regressor(**how: Any) -> MolSAMRegressor:
    return MolSAMRegressor(changes=tiny.SMALL, **{"random_state": 0, **how})


def classifier(**how: Any) -> MolSAMClassifier:
    return MolSAMClassifier(changes=tiny.SMALL, **{"random_state": 0, **how})


@pytest.fixture(scope="module")
def fitted() -> MolSAMRegressor:
    with tiny.undrawn():
        return regressor().fit(SMILES, LENGTHS)


# scikit-learn's own checks. X is a matrix of numbers there: it is spelt out as chains of atoms.


def spelt(X: np.ndarray) -> list[str]:
    """For each row an ether whose chains are as long as the numbers, of N where below 0."""
    lengths = np.clip(np.round(2 * X[:, :6].astype(float)).astype(int), -8, 8)
    return ["O".join(("N" if k < 0 else "C") * (abs(k) + 1) for k in row) for row in lengths]


class Spelt:
    """Reads numbers; what scikit-learn asks of an estimator of numbers alone is done here."""

    def fit(self, X, y):
        return super().fit(spelt(validate_data(self, X)), y)

    def _read(self, X):
        check_is_fitted(self)
        return super()._read(spelt(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = False
        for kind in filter(None, (tags.regressor_tags, tags.classifier_tags)):
            kind.poor_score = True  # one epoch of a tiny model
        return tags


class SpeltRegressor(Spelt, MolSAMRegressor):
    """Numbers from numbers."""


class SpeltClassifier(Spelt, MolSAMClassifier):
    """Classes from numbers."""


FAST = {"changes": {**tiny.SMALL, "training.epochs": 1}, "random_state": 0}


@parametrize_with_checks([SpeltRegressor(**FAST), SpeltClassifier(**FAST)])
def test_scikit_learn_agrees(estimator, check):
    check(estimator)


# What training leaves


def test_it_is_the_run_of_the_same_recipe_and_rows(fitted, tmp_path):
    recipe = Recipe.load("default").change(tiny.SMALL).change({"fractions": (0.9, 0.1, 0.0)})
    run = fit(recipe, TABLE, out=tmp_path / "run", seed=0)
    assert tiny.same_weights(run, fitted.run_)
    expected = run.predict(SMILES)["task"].to_numpy()
    np.testing.assert_array_equal(fitted.predict(SMILES), expected)
    assert fitted.run_.info.molecules["test"] == 0


def test_the_folder_is_the_one_asked_for_or_goes_with_the_run(tmp_path):
    kept = regressor(out=tmp_path / "run").fit(SMILES, LENGTHS)
    assert Run.load(tmp_path / "run").finished
    with pytest.raises(ValueError, match="is not empty; name another"):
        kept.fit(SMILES, LENGTHS)
    passing = regressor().fit(SMILES, LENGTHS)
    run = passing.run_
    folder = run.folder
    del passing
    gc.collect()
    assert run.predict(["CCO"])["error"].item() == ""
    del run
    gc.collect()
    assert not folder.exists()
    assert (tmp_path / "run").exists()


def test_a_training_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ValueError, match=r"loss is (nan|inf)"):
        MolSAMRegressor(changes={**tiny.SMALL, "lr": 1e30}).fit(SMILES, LENGTHS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])
def test_a_pickle_is_whole_without_the_folder(copied, tmp_path):
    estimator = regressor(out=tmp_path / "run").fit(SMILES, LENGTHS)
    expected = estimator.predict(SMILES)
    twin = copied(estimator)
    del estimator
    for path in sorted((tmp_path / "run").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    np.testing.assert_array_equal(twin.predict(SMILES), expected)
    assert twin.run_.finished


def test_what_is_not_trained_pickles_and_says_so():
    twin = pickle.loads(pickle.dumps(regressor()))
    assert twin.get_params() == regressor().get_params()
    with pytest.raises(NotFittedError):
        twin.predict(SMILES)


def test_the_seed_decides():
    one = regressor(random_state=np.random.RandomState(3)).fit(SMILES, LENGTHS)
    two = regressor(random_state=np.random.RandomState(3)).fit(SMILES, LENGTHS)
    other = regressor(random_state=4).fit(SMILES, LENGTHS)
    assert one.run_.info.seed == two.run_.info.seed != other.run_.info.seed
    np.testing.assert_array_equal(one.predict(SMILES), two.predict(SMILES))


# What X and y may be


@pytest.mark.parametrize(
    "shaped",
    [
        tuple,
        np.array,
        pd.Series,
        lambda texts: np.array(texts)[:, None],
        lambda texts: pd.DataFrame({"smiles": texts}),
    ],
)
def test_a_column_in_any_form(fitted, shaped):
    np.testing.assert_array_equal(fitted.predict(shaped(SMILES)), fitted.predict(SMILES))


@pytest.mark.parametrize("X", ["CCO", [["CCO", "CC"]], np.array("CCO")])
def test_other_forms_are_refused(fitted, X):
    with pytest.raises(ValueError, match="one SMILES a row"):
        fitted.predict(X)


def test_a_molecule_that_cannot_be_read_is_named(fitted):
    for answer in (fitted.predict, lambda X: regressor().fit(X, LENGTHS[:3])):
        with pytest.raises(InvalidMolecule, match="row 2: cannot use 'C1CC'"):
            answer(["CCO", "C1CC", "C"])


def test_several_numbers_some_missing():
    y = BOTH.copy()
    y[::3, 1] = np.nan
    model = regressor().fit(SMILES, y)
    mean, std = model.predict(SMILES, return_std=True)
    assert mean.shape == std.shape == y.shape
    assert np.isfinite(mean).all()


def test_an_ensemble_tells_its_spread():
    model = MolSAMRegressor(changes={**tiny.SMALL, "members": 2}, random_state=0)
    mean, std = model.fit(SMILES, LENGTHS).predict(SMILES, return_std=True)
    frame = model.run_.predict(SMILES)
    np.testing.assert_array_equal(mean, frame["y"])
    np.testing.assert_array_equal(std, frame["y std"])
    assert (std > 0).all()


@pytest.mark.parametrize("y", [LONG, LONG == "long", SIZES])
def test_classes_keep_their_names(y):
    model = classifier().fit(SMILES, y)
    assert model.classes_.tolist() == np.unique(y).tolist()
    probabilities = model.predict_proba(SMILES)
    assert probabilities.shape == (60, len(model.classes_))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    predicted = model.predict(SMILES)
    assert predicted.dtype == np.asarray(y).dtype
    np.testing.assert_array_equal(predicted, model.classes_[probabilities.argmax(axis=1)])


def test_several_tasks_of_two_classes_some_missing():
    y = np.column_stack([LONG == "long", SIZES == 0]).astype(float)
    y[::4, 1] = np.nan
    model = classifier().fit(SMILES, y)
    probabilities = model.predict_proba(SMILES)
    assert probabilities.shape == y.shape
    np.testing.assert_array_equal(model.predict(SMILES), probabilities > 0.5)
    assert [classes.tolist() for classes in model.classes_] == [[0, 1], [0, 1]]
    known = ~np.isnan(y[:, 1])
    assert roc_auc_score(y[known], probabilities[known]) >= 0


def test_labels_that_teach_nothing_are_refused():
    with pytest.raises(ValueError, match="one class alone, a:"):
        classifier().fit(SMILES, ["a"] * 60)
    with pytest.raises(ValueError, match="holds 0 and 1"):
        classifier().fit(SMILES, BOTH)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        regressor().fit(SMILES, LENGTHS[1:])


# Among scikit-learn's own


def test_cross_validation_holds_rows_out_and_none_within():
    folds = KFold(3, shuffle=True, random_state=0)
    scores = cross_validate(
        regressor(), np.array(SMILES), LENGTHS, cv=folds, n_jobs=2, return_estimator=True
    )
    for model, (train, test), score in zip(
        scores["estimator"], folds.split(SMILES), scores["test_score"], strict=True
    ):
        counts = model.run_.info.molecules
        assert (counts["train"], counts["valid"], counts["test"]) == (36, 4, 0)
        assert len(train) == 40
        assert model.score(np.array(SMILES)[test], LENGTHS[test]) == score
    assert clone(regressor()).get_params() == regressor().get_params()
    assert len(cross_val_score(classifier(), SMILES, LONG, cv=2, scoring="roc_auc")) == 2


def test_a_grid_is_of_changes_to_the_recipe():
    grid = [{**tiny.SMALL, "epochs": epochs} for epochs in (1, 2)]
    search = GridSearchCV(regressor(), {"changes": grid}, cv=2).fit(SMILES, LENGTHS)
    assert search.best_params_["changes"] in grid
    assert search.best_estimator_.run_.recipe.training.epochs in (1, 2)
    with pytest.raises(RecipeError, match="no field 'epoch'"):
        MolSAMRegressor(changes={"epoch": 1}).fit(SMILES, LENGTHS)


def test_molecule_vectors_serve_any_estimator(fitted, tmp_path):
    recipe = tiny.recipe(members=2, **{"data.descriptors": True, "data.fingerprints": True})
    run = fit(recipe, TABLE, out=tmp_path / "run", seed=0)
    vectors = MolSAMFeaturizer(run.folder).fit_transform(SMILES)
    width = recipe.model.width
    assert vectors.shape == (60, 2 * 2 * width)
    alone = MolSAMFeaturizer(run.folder).fit().transform(SMILES[5:6])
    np.testing.assert_allclose(alone, vectors[5:6], atol=1e-5)
    read = run.read(SMILES)
    model = run.models[1]
    packed = run._described(read.packed, read.descriptors, read.fingerprints)
    whole = model.embed(packed.batch(np.arange(60))).detach().numpy()
    np.testing.assert_allclose(vectors[:, 2 * width : 3 * width], whole[:, :width], atol=1e-5)
    np.testing.assert_allclose(vectors[:, 3 * width :], whole[:, -width:], atol=1e-5)
    frame = pd.DataFrame({"smiles": SMILES})
    columns = ColumnTransformer([("molecule", MolSAMFeaturizer(run.folder), "smiles")])
    pipeline = make_pipeline(columns, Ridge()).fit(frame, LENGTHS)
    assert pipeline.predict(frame).shape == (60,)
