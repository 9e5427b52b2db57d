"""What the tests of studies share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import tiny

from molsam import MoleculeTable, Recipe, histories
from molsam.tuning import Objective, Study


@contextmanager
def quick() -> Iterator[None]:
    """Nothing is drawn, and TensorBoard is not looked for."""
    with tiny.undrawn(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(histories, "find_spec", lambda name: None)
        yield


def in_memory() -> optuna.storages.BaseStorage:
    """A storage that takes no time."""
    return optuna.storages.InMemoryStorage()


def assert_trials_are_written(study: Study) -> pd.DataFrame:
    """`trials.csv` is the table as of now, to six figures; a trial's row has all that it chose."""
    written, table = pd.read_csv(study.folder / "trials.csv"), study.table()
    assert list(written) == list(table)
    assert list(written["trial"]) == [trial.number for trial in study.trials]
    assert list(written["state"]) == [study.state(trial) for trial in study.trials]
    for name in ("score", "seconds", *(c for c in table if c.startswith("split "))):
        found, expected = (frame[name].to_numpy(float) for frame in (written, table))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    for trial, (_, row) in zip(study.trials, written.iterrows(), strict=True):
        chosen = {n: v for n, v in row[list(study.space.ranges)].items() if not pd.isna(v)}
        assert chosen == trial.user_attrs.get("fields", {})
    return written


def score_of(recipe: Recipe, table: MoleculeTable, scratch: Path, repeat: int = 0) -> float:
    return Objective(table, recipe).score(recipe, repeat, scratch, None)
