"""What docs/studies/last_epoch.py measures: two ways of keeping weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny

SCRIPT = Path(__file__).parents[1] / "docs/studies/last_epoch.py"
SPEC = importlib.util.spec_from_file_location("last_epoch", SCRIPT)
last_epoch = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(last_epoch)


def test_the_best_epoch_is_each_members_own_and_means_are_of_predictions():
    y = np.arange(40.0)[:, None]
    errors = np.array([[0.0, 3.0], [2.0, -1.0]])  # member x epoch
    found = last_epoch.halved("rmse", y, y + errors[:, :, None, None])
    assert found == pytest.approx(
        {"one_best": 0.5, "mean_best": 0.5, "one_last": 2.0, "mean_last": 1.0}
    )


def test_what_chose_the_epoch_does_not_score_it():
    """Epochs of pure noise: the best of them is no better than another on rows it has not seen."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, (400, 1)).astype(float)
    found = last_epoch.halved("roc_auc", y, rng.random((2, 30, 400, 1)))
    assert found["one_best"] == pytest.approx(0.5, abs=0.02)


def test_a_split_is_trained_and_both_ways_scored(tmp_path):
    table = tiny.lengths(60)
    path = tmp_path / "table.csv"
    pd.DataFrame({"smiles": table.smiles, "y": table.y[:, 0]}).to_csv(path, index=False)
    recipe = tiny.recipe(epochs=4).change(last_epoch.CHANGES)
    once = last_epoch.measure(recipe, path, seed=3)
    assert once["metric"] == "rmse"
    assert once == last_epoch.measure(recipe, path, seed=3)
    alone = last_epoch.measure(recipe.change({"training.epochs": 1}), path, seed=3)
    assert alone["one_best"] == alone["one_last"] != once["one_last"]
