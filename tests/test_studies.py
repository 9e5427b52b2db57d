"""molsam.studies: what differs, what is held, and what is read off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from typer.testing import CliRunner

from molsam import datasets, studies, training
from molsam.cli import app
from molsam.studies import Study


@pytest.fixture(autouse=True, scope="module")
def _undrawn() -> Iterator[None]:
    with tiny.undrawn():
        yield


@pytest.fixture(autouse=True)
def _tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of `tiny` in place of the tasks."""
    tables = {"esol": tiny.regression(), "bace": tiny.binary()}
    monkeypatch.setattr(datasets, "load", lambda name, **_: tables[name])


STUDY = Study(
    about="for tests",
    tasks=("esol", "bace"),
    common={**tiny.SMALL, "diagnose_every": 1, "sharpness_every": 1},
    variants={"one, two": {"optimizer.name": "sam"}, "samone": {"optimizer.name": "samone"}},
)


def run(study: Study, folder: Path, **options: Any) -> list[dict[str, Any]]:
    return [row for row, _ in studies.run_study(study, folder, **options)]


@pytest.mark.parametrize("study", studies.STUDIES.values(), ids=studies.STUDIES)
def test_the_recipes_of_the_studies_are_valid_and_differ(study):
    assert set(study.tasks) <= set(datasets.TASKS)
    for task in study.tasks:
        recipes = [study.recipe(task, variant) for variant in study.variants]
        assert all(recipes[i] != recipes[j] for i in range(len(recipes)) for j in range(i))
    folders = {studies.run_folder(Path(), "t", variant, 0) for variant in study.variants}
    assert len(folders) == len(study.variants)


def test_every_cell_once_with_what_its_history_says(tmp_path):
    rows = run(STUDY, tmp_path, seeds=2)
    cells = [(row["task"], row["variant"], row["seed"]) for row in rows]
    assert len(set(cells)) == len(cells) == 2 * 2 * 2
    for row in rows:
        name = row["variant"].replace(", ", "-")
        folder = tmp_path / row["task"] / name / f"seed-{row['seed']}"
        history = pd.read_csv(folder / "member-0" / "history.csv")
        best = history[f"valid_{row['metric']}"].agg("min" if row["task"] == "esol" else "max")
        assert row["valid"] == best
        assert row["metric"] == {"esol": "rmse", "bace": "roc_auc"}[row["task"]]
        assert row["gradients"] == history["gradients"].sum()
        assert row["sharpness"] == history["sharpness"].iloc[-1]
        assert row["aligned"] == pytest.approx(history["aligned"].mean(), nan_ok=True)


def test_seeds_count_from_the_first_of_the_study(tmp_path):
    study = replace(STUDY, tasks=("esol",), variants={"sam": {}}, first_seed=7)
    assert [row["seed"] for row in run(study, tmp_path, seeds=2)] == [7, 8]
    assert (tmp_path / "esol" / "sam" / "seed-8").is_dir()


def test_it_goes_on_where_it_stopped(tmp_path, monkeypatch):
    cells = studies.run_study(STUDY, tmp_path, seeds=1)
    first, _ = next(cells)
    second, _ = next(cells)
    cells.close()
    trained = []
    train = training.Trainer.train
    monkeypatch.setattr(
        training.Trainer, "train", lambda self, n: (trained.append(self.run.folder), train(self, n))
    )
    rows = run(STUDY, tmp_path, seeds=1)
    assert len(trained) == len(rows) - 2
    assert rows[:2] == [first, second]


def trajectory(*looks: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame(looks, columns=["train_loss", "sharpness"])


def test_sharpness_at_the_loss_that_all_reach():
    sharp = trajectory((1.0, 10.0), (0.1, 1000.0), (0.01, 2000.0))
    flat = trajectory((2.0, 8.0), (np.nan, np.nan), (0.5, 4.0), (0.6, 3.0))
    level, found = studies.at_equal_loss({"sharp": sharp, "flat": flat})
    assert level == 0.5
    # half of a decade in loss is two in sharpness: log-linear
    assert found["sharp"] == pytest.approx(10.0 * 10 ** (2 * np.log10(2)))
    assert found["flat"] == 4.0


def test_a_loss_reached_at_once():
    paths = {"a": trajectory((0.1, 5.0), (0.05, 6.0)), "b": trajectory((1.0, 1.0), (0.2, 2.0))}
    assert studies.at_equal_loss(paths) == (0.2, {"a": 5.0, "b": 2.0})


def test_mean_and_spread():
    rows = [
        {"task": "a", "variant": v, "seed": s, "valid": x}
        for v, s, x in [("p", 0, 1.0), ("q", 0, 5.0), ("p", 1, 3.0)]
    ]
    p, q = studies.summarize(rows, "valid")
    assert (p["variant"], p["n"], p["mean"], p["std"]) == ("p", 2, 2.0, pytest.approx(2**0.5))
    assert (q["variant"], q["n"], q["mean"]) == ("q", 1, 5.0)
    assert np.isnan(q["std"])


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(studies.STUDIES, "tiny", STUDY)
    out = tmp_path / "study"
    result = CliRunner().invoke(app, ["study", "tiny", "--seeds", "2", "--out", str(out)])
    assert result.exit_code == 0, result.output
    for title in ("best validation", "share of steps with cosine >= 0", "top Hessian eigenvalue"):
        assert title in result.stdout
    rows, equal = pd.read_csv(out / "rows.csv"), pd.read_csv(out / "equal_loss.csv")
    assert len(rows) == len(equal) == 8
    losses = equal.groupby(["task", "seed"])["train_loss"]
    assert (losses.nunique() == 1).all()
    assert (out / "sharpness.png").read_bytes().startswith(b"\x89PNG")


def test_a_study_that_is_not_there():
    result = CliRunner().invoke(app, ["study", "sharpnes"])
    words = "no study 'sharpnes'; there are sharpness, anchor, stand-in, levers"
    assert words in str(result.exception)
