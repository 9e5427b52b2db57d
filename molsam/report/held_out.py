"""The test rows of a run, and numbers of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .. import metrics, molecules
from ..certainty import of_classes
from ..files import fitting, sealed
from ..records import read_scores
from ..runs import Run

if TYPE_CHECKING:
    import pandas as pd
    from rdkit.Chem import Mol

COVERAGES = (0.5, 0.8, 0.9, 0.95)
DRAWS = 200  # of test rows, with replacement


@dataclass(frozen=True)
class HeldOut:
    """The test rows of a run, as `predictions.csv` has them.

    Attributes
    ----------
    run : whose they are.
    rows : (N,) data rows, from 1.
    mols : the N molecules.
    y : (N, T) labels, codes of classes, NaN where missing.
    mean : what is predicted of them, (N, T), for classes (N, T, C).
    std : (N, T) of the models, 0 where there is one.
    similarity, inside : (N,) to the nearest training molecule; whether that is near enough.
    """

    run: Run
    rows: np.ndarray
    mols: list[Mol]
    y: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    similarity: np.ndarray
    inside: np.ndarray

    @classmethod
    def of(cls, run: Run) -> HeldOut | None:
        """None where the split has no test rows."""
        import pandas as pd

        path = run.folder / "predictions.csv"
        if not path.is_file():
            return None
        with fitting(path):
            return cls._of(run, pd.read_csv(path, dtype=str, keep_default_na=False))

    @classmethod
    def _of(cls, run: Run, table: pd.DataFrame) -> HeldOut:
        import pandas as pd

        info, data = run.info, run.recipe.data
        names = [f"predicted {column}" for column in run.columns()]

        def numbers(columns: Iterable[str]) -> np.ndarray:
            return np.stack([pd.to_numeric(table[name]).to_numpy(float) for name in columns], 1)

        measured = [f"measured {task}" for task in info.tasks]
        if info.classes:
            code = {name: float(c) for c, name in enumerate(info.classes)}
            y = np.stack([table[name].map(code) for name in measured], 1)
            each = [numbers(f"{name} p({c})" for c in info.classes) for name in names]
            mean = np.stack(each, 1)
        else:
            y, mean = numbers(measured), numbers(names)
        stds = [f"{name} std" for name in names]
        std = numbers(stds) if stds[0] in table else np.zeros(y.shape)
        rows, similarity = numbers(["row", "similarity"]).T
        read = molecules.parse_many(table["smiles"], salts=data.salts, charges=data.charges)
        for error in read.errors:
            raise error
        if np.isinf(y).any() or not np.isfinite([*mean.flat, *std.flat, *rows, *similarity]).all():
            raise ValueError("a number is missing or infinite")
        inside = table["in domain"].eq("True").to_numpy()
        return cls(run, rows.astype(int), read.mols, y, mean, std, similarity, inside)

    @cached_property
    def errors(self) -> np.ndarray:
        """(N, T) |f - y|, with several tasks in standard deviations of the training labels; of
        classes 1 - p of the true one. NaN where no label is."""
        if self.run.info.kind == "regression":
            many = len(self.run.info.tasks) > 1
            return np.abs(self.mean - self.y) / (self.run.scalers.target.scale if many else 1)
        truth = np.nan_to_num(self.y).astype(int)
        wrong = 1 - np.take_along_axis(of_classes(self.mean), truth[..., None], axis=-1)[..., 0]
        return np.where(np.isnan(self.y), np.nan, wrong)

    def within(self, coverage: float) -> tuple[float, np.ndarray]:
        """The share of values in the run's intervals, and the median width, (T,), of these."""
        assert self.run.certainty is not None
        low, high = self.run.certainty.interval(self.mean, self.std, coverage)
        inside = (low <= self.y) & (self.y <= high)
        return float(inside[~np.isnan(self.y)].mean()), np.median(high - low, axis=0)

    @property
    def error_name(self) -> str:
        """What `errors` are called."""
        info = self.run.info
        if info.kind != "regression":
            return "1 - p(true class)"
        if len(info.tasks) > 1:
            return "|error| / std of the task"
        return f"|error| of {self.run.columns()[0]}"


def resampled(metric: str, test: HeldOut) -> tuple[float, float]:
    """The percentiles 2.5 and 97.5 of the score over `DRAWS` draws of the test rows."""
    generator, tasks = np.random.default_rng(0), test.run.info.tasks
    drawn = []
    for _ in range(DRAWS):
        rows = generator.integers(0, len(test.y), len(test.y))
        drawn.append(metrics.score(metric, test.y[rows], test.mean[rows], tasks).mean)
    if np.isnan(drawn).all():
        return np.nan, np.nan
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def beside(run: Run, metric: str) -> list[float]:
    """Test scores of finished runs with the same recipe and other seeds, beside this one."""
    if not (run.folder.parent / "repeats.json").is_file():
        return []
    folders = sorted(run.folder.parent.glob("seed-*"))
    done = [read_scores(folder / "scores.json") for folder in folders if sealed(folder)]
    scored = [each["test"][metric]["mean"] for each in done if "test" in each]
    return scored if len(scored) > 1 else []


def mean_of(values: np.ndarray) -> float:
    """The mean, NaN left out; NaN of none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def mean_errors(test: HeldOut) -> np.ndarray:
    """(N,) over the tasks of a molecule that have a label, NaN where none has."""
    known = ~np.isnan(test.errors)
    total = np.where(known, test.errors, 0).sum(axis=1)
    return np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)


def binned(x: np.ndarray, error: np.ndarray) -> list[tuple[float, float, int, float]]:
    """Five ranges of x with as many molecules each, or nearly: from, to, how many, mean error."""
    edges = np.unique(np.quantile(x, np.linspace(0, 1, 6)))
    which = np.searchsorted(edges[1:-1], x, side="right")
    return [
        (float(inside.min()), float(inside.max()), len(inside), mean_of(error[which == group]))
        for group in np.unique(which)
        for inside in [x[which == group]]
    ]


def by_scaffold(test: HeldOut, error: np.ndarray) -> list[tuple[str, int, float]]:
    """Each Bemis-Murcko scaffold, the most frequent first: how many have it, mean error."""
    names = np.array([molecules.scaffold(mol) for mol in test.mols])
    found, counts = np.unique(names, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(str(found[i]), int(counts[i]), mean_of(error[names == found[i]])) for i in order]
