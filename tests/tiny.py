"""Tiny recipes, tables of every kind, and comparisons, for tests of training and of runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from molsam import MoleculeTable, Recipe, Run, datasets, pictures
from molsam.files import load_state
from molsam.runs import NEARNESS, WEIGHTS

TIMES = ["molecules_per_second", "seconds"]
PROBES = ["CCO", "c1ccccc1O", "CC(=O)Oc1ccccc1C(=O)O", "[Na+].[Cl-]", "C"]
DRUGS = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "C[C@H](N)C(=O)O",
    "[Na+].[O-]C(=O)c1ccccc1",
    "C/C=C/C",
]
SMALL = {
    "model.width": 16,
    "model.depth": 1,
    "model.heads": 2,
    "model.readout": "mean",
    "model.dropout": 0.1,
    "data.descriptors": False,
    "data.fingerprints": False,
    "optimizer.lr": 5e-4,
    "optimizer.rho": 0.05,
    "training.epochs": 3,
    "training.batch_size": 16,
    "training.members": 1,
    "training.gaussian_process": False,
}


def sure(column: str) -> list[str]:
    """The columns behind a regression's prediction which say how sure it is."""
    return [f"{column} low", f"{column} high", *NEARNESS]


@contextmanager
def undrawn() -> Iterator[None]:
    """Runs without pictures, which take most of the time of a tiny one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw", lambda *_: None)
        yield


def recipe(**fields: Any) -> Recipe:
    """The default recipe made small, then changed: `recipe(epochs=2, **{"model.depth": 2})`."""
    return Recipe().change(SMALL).change(fields)


@cache
def regression(count: int = 60) -> MoleculeTable:
    """Measured activities from the whole range of the bundled set, as a table of their own."""
    table = datasets.load("bundled")
    chosen = table.take(np.linspace(0, len(table) - 1, count).astype(int))
    return replace(chosen, rows=np.arange(1, count + 1))


def relabel(y: np.ndarray, kind: datasets.Kind, classes: Sequence[str] = ()) -> MoleculeTable:
    """The molecules of `regression` with labels `y` (N, T)."""
    tasks = tuple(f"task {t}" for t in range(y.shape[1])) if y.shape[1] > 1 else ("task",)
    return replace(
        regression(len(y)),
        y=y.astype(np.float32),
        tasks=tasks,
        kind=kind,
        units=("",) * len(tasks),
        classes=tuple(classes),
    )


def lengths(count: int = 60) -> MoleculeTable:
    """Lengths of the SMILES, which a tiny model learns in a few epochs."""
    return relabel(np.array([[len(text)] for text in regression(count).smiles]), "regression")


def binary(count: int = 60) -> MoleculeTable:
    """Active or not."""
    y = regression(count).y
    return relabel(y > np.median(y), "binary")


def multilabel(count: int = 60) -> MoleculeTable:
    """Three tasks with a third of the labels missing; the last has a single positive, in row 1."""
    y = regression(count).y
    rare = np.arange(count)[:, None] == 0
    labels = np.hstack([y > np.median(y), y > np.quantile(y, 0.7), rare]).astype(float)
    labels[np.random.default_rng(0).random(labels.shape) < 0.33] = np.nan
    labels[0] = [0, 1, 1]
    return relabel(labels, "binary")


def multiclass(count: int = 60) -> MoleculeTable:
    """Three classes with names."""
    y = regression(count).y
    codes = np.digitize(y, np.quantile(y, [1 / 3, 2 / 3]))
    return relabel(codes, "multiclass", ("high", "low", "middle"))


KINDS = {
    "regression": regression,
    "binary": binary,
    "multilabel": multilabel,
    "multiclass": multiclass,
}


def weights(run: Run) -> list[dict[str, Tensor]]:
    """What each member has learnt, as it stands in the run folder."""
    return [load_state(member / WEIGHTS)["model"] for member in run.members]


def history(run: Run, member: int = 0) -> pd.DataFrame:
    """The history of one member, apart from times."""
    path = run.folder / f"member-{member}" / "history.csv"
    return pd.read_csv(path).drop(columns=TIMES)


def same_weights(a: Run, b: Run) -> bool:
    """Whether two runs have learnt the same, bit for bit."""
    ours, theirs = weights(a), weights(b)
    return len(ours) == len(theirs) and all(
        x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)
        for x, y in zip(ours, theirs, strict=True)
    )


def assert_same_run(a: Run, b: Run) -> None:
    """Weights, history apart from times, scores and predictions are equal bit for bit."""
    assert same_weights(a, b)
    for member in range(len(a.members)):
        pd.testing.assert_frame_equal(history(a, member), history(b, member), check_exact=True)
    assert a.scores == b.scores or _holds_nan(a.scores)
    for name in ("predictions.csv", "split.json", "scalers.json", "recipe.toml"):
        assert (a.folder / name).read_bytes() == (b.folder / name).read_bytes()
    pd.testing.assert_frame_equal(a.predict(PROBES), b.predict(PROBES), check_exact=True)


def _holds_nan(scores: Any) -> bool:
    return "nan" in str(scores)
