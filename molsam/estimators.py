"""Recipes as scikit-learn estimators, whose X is SMILES.

    cross_val_score(MolSAMRegressor(), smiles, y)
    make_pipeline(MolSAMFeaturizer("runs/esol"), Ridge())

X -> N SMILES in a list, an array or a column of a data frame, (N,) or (N, 1). One that is no usable
molecule raises `InvalidMolecule`, which names its row, for scikit-learn wants an answer to every
row; `Run.predict` leaves out what it cannot answer.
"""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from .datasets import Kind, MoleculeTable
from .inference import read_molecules
from .recipes import Recipe
from .runs import Run
from .training import fit

if TYPE_CHECKING:
    from sklearn.utils import Tags

    from .reading import Reading


class RunHolder(BaseEstimator):
    """An estimator with a run, `run_`; its pickle holds the files of the run folder."""

    device: str

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        run = state.pop("run_", None)
        if run is not None:
            paths = (path for path in run.folder.rglob("*") if path.is_file())
            state["files"] = {path.relative_to(run.folder): path.read_bytes() for path in paths}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        files = state.pop("files", None)
        super().__setstate__(state)
        if files is not None:
            folder = Path(mkdtemp(prefix="molsam-"))
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            self.run_ = until_dropped(Run.load(folder, device=self.device))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = True
        return tags

    def _read(self, X: Any) -> Reading:
        check_is_fitted(self, "run_")
        read = self.run_.read(smiles_of(X))
        if read.errors:
            raise read.errors[0]
        return read


class TrainedEstimator(RunHolder):
    """What regressor and classifier share: a recipe, trained into a run folder."""

    def __init__(
        self,
        recipe: str | Path | Recipe = "default",
        changes: Mapping[str, Any] | None = None,
        *,
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        out: str | Path | None = None,
        device: str = "auto",
    ) -> None:
        self.recipe = recipe
        self.changes = changes
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.out = out
        self.device = device

    def _train(self, X: Any, y: np.ndarray, kind: Kind, classes: tuple[str, ...] = ()) -> None:
        """Train on labels (N,) or (N, T), NaN where missing, codes of `classes` if there are."""
        recipe = self._recipe()
        table = _table(smiles_of(X), y, kind, classes)
        asked = recipe.data.asked(recipe.training.gaussian_process, nearness=True)
        read = read_molecules(table.smiles, recipe.data, keep=True, **asked)  # `fit` finds it kept
        if read.errors:
            raise read.errors[0]
        self._flat = y.ndim == 1
        how: dict[str, Any] = {"seed": _seed(self.random_state), "device": self.device}
        if self.out is not None:
            self.run_ = fit(recipe, table, out=self.out, **how)
            return
        folder = Path(mkdtemp(prefix="molsam-"))
        try:
            self.run_ = until_dropped(fit(recipe, table, out=folder, **how))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _recipe(self) -> Recipe:
        recipe = self.recipe if isinstance(self.recipe, Recipe) else Recipe.load(self.recipe)
        held = self.validation_fraction
        parts = {"data.split": "random", "data.fractions": (1 - held, held, 0.0)}
        return recipe.change({**(self.changes or {}), **parts})

    def _predict(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        read = self._read(X)
        return self.run_.predict_read(read)


class MolSAMRegressor(RegressorMixin, TrainedEstimator):
    """A recipe that learns numbers from SMILES.

    Parameters
    ----------
    recipe : name of a shipped recipe, a TOML file, or a `Recipe`.
    changes : fields of the recipe and their values, `{"rho": 0.01, "members": 1}`; what a search
        tries is a list of such.
    validation_fraction : of the rows, drawn at random, that do not train: the learning curve is
        theirs, and `training.patience` stops by them. None is kept for a test.
    random_state : decides split, weights, order and dropout.
    out : the run folder, new or empty; a temporary one that goes with the run if not given.
    device : `auto` (CUDA, then MPS, then the CPU) or a torch device.

    Attributes
    ----------
    run_ : the `Run`, which predicts whole files and says all else.
    """

    def fit(self, X: Any, y: Any) -> MolSAMRegressor:
        """Train on y -> (N,), or (N, T) for T tasks at once with NaN where a label is missing."""
        self._train(X, _numbers(self, y), "regression")
        return self

    def predict(
        self, X: Any, return_std: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """(N,) or (N, T) as y was; with `return_std` also the spread of the ensemble's models."""
        mean, std = (z[:, 0] if self._flat else z for z in self._predict(X))
        return (mean, std) if return_std else mean

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class MolSAMClassifier(ClassifierMixin, TrainedEstimator):
    """A recipe that learns classes from SMILES; parameters and `run_` are `MolSAMRegressor`'s.

    Attributes
    ----------
    classes_ : the classes, in the order of the probabilities' columns; for T tasks a list of T.
    """

    def fit(self, X: Any, y: Any) -> MolSAMClassifier:
        """Train on y -> (N,) of any labels, or (N, T) of 0, 1 and, where one is missing, NaN."""
        _refuse_none(self, y)
        shape = np.asarray(y).shape
        if len(shape) == 2 and shape[1] > 1:
            truth = _numbers(self, y)
            if not np.isin(truth[~np.isnan(truth)], (0, 1)).all():
                raise ValueError("y of several tasks holds 0 and 1, and NaN where one is missing")
            self._train(X, truth, "binary")
            self.classes_ = [np.array([0, 1])] * truth.shape[1]
            return self
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y has one class alone, {classes[0]}: there is nothing to learn")
        several = tuple(map(str, classes)) if len(classes) > 2 else ()
        self._train(X, codes, "multiclass" if several else "binary", several)
        self.classes_ = classes
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, C) of C classes; for T tasks (N, T), the probabilities of 1."""
        mean, _ = self._predict(X)
        if not self._flat:
            return mean
        return np.hstack([1 - mean, mean]) if mean.ndim == 2 else mean[:, 0]

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class, (N,); for T tasks 1 where it is likelier than 0, (N, T)."""
        found = self.predict_proba(X)
        if not self._flat:
            return (found > 0.5).astype(int)
        return np.asarray(self.classes_)[found.argmax(axis=1)]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.classifier_tags.multi_label = True
        return tags


class MolSAMFeaturizer(TransformerMixin, RunHolder):
    """What the models of a run have learnt to read of a molecule, for any estimator.

    Parameters
    ----------
    run : a run folder.
    device : `auto` (CUDA, then MPS, then the CPU) or a torch device.
    """

    def __init__(self, run: str | Path, *, device: str = "auto") -> None:
        self.run = run
        self.device = device

    def fit(self, X: Any = None, y: Any = None) -> MolSAMFeaturizer:
        """Open the run; nothing is learnt."""
        self.run_ = Run.load(self.run, device=self.device)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """(N, M W) float32, see `Run.embed`: W values of each of M models."""
        read = self._read(X)
        return self.run_.embed(read)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


def smiles_of(X: Any) -> list[Any]:
    """The one text of each row.

    Raises:
        ValueError: X is one text, or has several columns.
    """
    texts = np.asarray(X, dtype=object)
    if texts.ndim == 2 and texts.shape[1] == 1:
        texts = texts[:, 0]
    if texts.ndim != 1:
        raise ValueError(
            f"X must hold one SMILES a row, (N,) or (N, 1), but its shape is {texts.shape}; give a "
            "list of SMILES, or the column that holds them"
        )
    return texts.tolist()


def until_dropped(run: Run) -> Run:
    """`run`, whose folder is removed when nothing refers to it any more."""
    weakref.finalize(run, shutil.rmtree, run.folder, ignore_errors=True)
    return run


def _seed(random_state: int | np.random.RandomState | None) -> int:
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _numbers(estimator: BaseEstimator, y: Any) -> np.ndarray:
    """y as (N,) or (N, T) float64, NaN allowed."""
    _refuse_none(estimator, y)
    allowed: dict[str, Any] = {"ensure_2d": False, "ensure_all_finite": "allow-nan"}
    return check_array(y, dtype="float64", ensure_min_samples=2, **allowed)


def _refuse_none(estimator: BaseEstimator, y: Any) -> None:
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None"
        )


def _table(smiles: list[Any], y: np.ndarray, kind: Kind, classes: tuple[str, ...]) -> MoleculeTable:
    check_consistent_length(smiles, y)
    y = y.astype(np.float32).reshape(len(y), -1)
    count = y.shape[1]
    return MoleculeTable(
        smiles=tuple(smiles),
        y=y,
        tasks=("y",) if count == 1 else tuple(f"y {t}" for t in range(count)),
        kind=kind,
        units=("",) * count,
        classes=classes,
        source="X",
        rows=np.arange(1, len(y) + 1),
    )
