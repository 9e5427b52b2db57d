"""Training: what a seed fixes, every kind of target, selection, and what training may see."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import molsam
from molsam import (
    MoleculeTable,
    Recipe,
    Run,
    fit,
    fit_repeats,
    metrics,
    molecules,
    pictures,
    reading,
)
from molsam.datasets import DataError
from molsam.epochs import Progress
from molsam.files import read_json
from molsam.preparation import make_split, prepare
from molsam.recipes import DataConfig
from molsam.scaling import VIEWS, DescriptorScaler

DRAW = pictures.draw


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures, after all."""
    monkeypatch.setattr(pictures, "draw", DRAW)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Regression, seed 0."""
    return fit(tiny.recipe(), tiny.regression(), out=tmp_path_factory.mktemp("runs") / "a")


# What a seed fixes


def test_same_seed_gives_the_same_run(reference, tmp_path):
    tiny.assert_same_run(fit(tiny.recipe(), tiny.regression(), out=tmp_path / "b"), reference)


def test_another_seed_gives_another_run(reference, tmp_path):
    other = fit(tiny.recipe(), tiny.regression(), out=tmp_path / "b", seed=1)
    assert not tiny.same_weights(other, reference)
    assert read_json(other.folder / "split.json") != read_json(reference.folder / "split.json")
    assert other.info.seed == 1


def test_a_split_seed_keeps_the_split_and_leaves_weights_to_the_seed(tmp_path):
    recipe = tiny.recipe(split_seed=5, epochs=1)
    a, b = (fit(recipe, tiny.regression(), out=tmp_path / str(s), seed=s) for s in (0, 1))
    assert read_json(a.folder / "split.json") == read_json(b.folder / "split.json")
    assert not tiny.same_weights(a, b)


FRESH = """
import sys, torch
sys.path.insert(0, {tests!r})
import tiny, molsam
from molsam import pictures
pictures.draw = lambda *_: None
assert torch.get_num_threads() == 2
torch.manual_seed(99)
for name in "ab":
    wide = tiny.recipe(batch_size=48, epochs=2, **{{"model.width": 64}})
    molsam.fit(wide, tiny.regression(), out=sys.argv[1] + "/two-" + name)
torch.set_num_threads(int(sys.argv[2]))
molsam.fit(tiny.recipe(), tiny.regression(), out=sys.argv[1] + "/same")
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of another process: `two-a` and `two-b` by two threads, `same` by as many as here."""
    folder = tmp_path_factory.mktemp("fresh")
    script = FRESH.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(torch.get_num_threads())],
        env=os.environ | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_a_fresh_process_gives_the_same_run(reference, fresh):
    tiny.assert_same_run(Run.load(fresh / "same"), reference)


def test_two_threads_give_the_same_run_twice(fresh):
    tiny.assert_same_run(Run.load(fresh / "two-a"), Run.load(fresh / "two-b"))


def states() -> tuple[list[int], str, object]:
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002
    return torch.random.get_rng_state().tolist(), str(numpy), random.getstate()


def test_global_random_states_are_left_alone(tmp_path):
    before = states()
    run = fit(tiny.recipe(epochs=1), tiny.regression(), out=tmp_path / "run")
    run.predict(tiny.PROBES)
    molsam.load(run.folder).predict(tiny.PROBES)
    assert states() == before


# Every kind of target


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_kind_trains_predicts_evaluates_and_draws(kind, tmp_path):
    table = tiny.KINDS[kind]()
    run = fit(tiny.recipe(epochs=2), table, out=tmp_path / "run")
    assert run.finished
    assert run.info.molecules == {
        "rows": 60, "unreadable": 0, "train": 48, "valid": 6, "test": 6,
    }  # fmt: skip
    served = {name for name, metric in metrics.METRICS.items() if table.kind in metric.kinds}
    assert {part: set(found) for part, found in run.scores.items()} == {
        "valid": served,
        "test": served,
    }
    frame = run.predict(table.smiles)
    assert len(frame) == 60
    assert (frame["error"] == "").all()
    picture = {"regression": "parity.png", "binary": "roc.png", "multiclass": "confusion.png"}
    for name in ("learning_curve.png", picture[table.kind]):
        assert (run.folder / name).read_bytes().startswith(b"\x89PNG")
    test_rows = read_json(run.folder / "split.json")["test"]
    again = run.evaluate(table.take(test_rows))
    assert again["molecules"] == 6
    for name in served:
        assert again["scores"][name]["mean"] == pytest.approx(
            run.scores["test"][name]["mean"], abs=1e-6, nan_ok=True
        )
    written = pd.read_csv(run.folder / "predictions.csv")
    assert written["row"].tolist() == [table.rows[i] for i in test_rows]
    assert len(written) == 6


def test_predictions_are_in_the_users_units(tmp_path):
    table = replace(tiny.regression(), y=tiny.regression().y * 1000 + 5000)
    run = fit(tiny.recipe(epochs=2), table, out=tmp_path / "run")
    predicted = run.predict(table.smiles)["activity"]
    assert 9_000 < predicted.mean() < 14_000
    written = pd.read_csv(run.folder / "predictions.csv")
    chosen = written["row"] - 1
    assert np.allclose(written["predicted activity"], predicted[chosen], rtol=1e-5)
    assert np.allclose(written["measured activity"], table.y[chosen, 0], rtol=1e-5)
    rmse = np.sqrt(np.mean((predicted[chosen] - table.y[chosen, 0]) ** 2))
    assert run.scores["test"]["rmse"]["mean"] == pytest.approx(rmse, rel=1e-5)


def test_class_names_stand_in_the_table_of_test_rows(tmp_path):
    table = tiny.multiclass()
    run = fit(tiny.recipe(epochs=1), table, out=tmp_path / "run")
    written = pd.read_csv(run.folder / "predictions.csv")
    measured = [table.classes[int(table.y[row - 1, 0])] for row in written["row"]]
    assert written["measured task"].tolist() == measured
    assert set(written["predicted task"]) <= set(table.classes)


def test_tasks_that_a_metric_cannot_judge_are_named(tmp_path):
    table = tiny.multilabel()
    run = fit(tiny.recipe(epochs=1), table, out=tmp_path / "run")
    assert 0 in read_json(run.folder / "split.json")["train"]  # the one positive of the last task
    scores = run.scores["test"]["roc_auc"]
    assert "task 2" in scores["excluded"]
    assert set(scores["tasks"]) | set(scores["excluded"]) == set(table.tasks)
    assert "task 2" in run.scores["test"]["accuracy"]["tasks"]


def test_where_no_task_can_be_judged_the_validation_loss_selects(tmp_path):
    y = np.zeros((60, 1))
    parts = make_split(tiny.regression(), [None] * 60, DataConfig(), 0)  # type: ignore[list-item]
    y[parts.train[::2]] = 1
    recipe = tiny.recipe(epochs=6, patience=6)
    run = fit(recipe, tiny.relabel(y, "binary"), out=tmp_path / "run")
    history = tiny.history(run)
    assert history["valid_roc_auc"].isna().all()
    chosen = history[history["kept"]].iloc[-1]
    assert chosen["valid_loss"] == history["valid_loss"].min()


def test_an_ensemble_gives_the_mean_of_its_members_and_their_spread(tmp_path):
    run = fit(tiny.recipe(members=2, epochs=2), tiny.regression(), out=tmp_path / "run")
    assert [member.name for member in run.members] == ["member-0", "member-1"]
    frame = run.predict(tiny.PROBES)
    assert list(frame) == ["smiles", "activity", "activity std", *tiny.sure("activity"), "error"]
    each = []
    for model in run.models:
        alone = Run.load(run.folder)
        alone.__dict__["models"] = [model]
        each.append(alone.predict(tiny.PROBES)["activity"])
    assert np.allclose(frame["activity"], np.mean(each, axis=0), rtol=1e-12)
    assert np.allclose(frame["activity std"], np.std(each, axis=0), rtol=1e-9)
    assert (frame["activity std"] > 0).all()


def test_members_start_from_weights_of_their_own(tmp_path):
    recipe = tiny.recipe(members=2, epochs=1, **{"optimizer.lr": 1e-9})
    first, second = tiny.weights(fit(recipe, tiny.regression(), out=tmp_path / "run"))
    assert not torch.allclose(first["atom_embedding.weight"], second["atom_embedding.weight"])


# Selection


UNSTEADY = {"epochs": 12, "schedule": "constant", "optimizer.lr": 0.02}


def test_the_weights_after_the_last_epoch_are_kept(tmp_path):
    run = fit(tiny.recipe(**UNSTEADY), tiny.regression(), out=tmp_path / "run")
    history = tiny.history(run)
    assert np.argmin(history["valid_rmse"]) < len(history) - 1  # or the best would do
    assert run.scores["valid"]["rmse"]["mean"] == pytest.approx(
        history["valid_rmse"].iloc[-1], rel=1e-5
    )
    assert history["kept"].all()


def test_with_patience_the_weights_of_the_best_epoch_are_kept(tmp_path):
    recipe = tiny.recipe(**UNSTEADY, patience=12)
    run = fit(recipe, tiny.regression(), out=tmp_path / "run")
    history = tiny.history(run)
    best = int(np.argmin(history["valid_rmse"]))
    assert best < len(history) - 1  # or the last epoch's weights would do
    assert run.scores["valid"]["rmse"]["mean"] == pytest.approx(
        history["valid_rmse"][best], rel=1e-5
    )
    assert history["kept"][best]
    assert not history["kept"][best + 1 :].any()


@pytest.mark.parametrize("metric", ["rmse", "mae", "r2"])
def test_validation_selects_by_the_metric_in_its_own_direction(metric, tmp_path):
    recipe = tiny.recipe(**UNSTEADY, patience=12, metric=metric)
    run = fit(recipe, tiny.regression(), out=tmp_path / "run")
    scores = tiny.history(run)[f"valid_{metric}"]
    best = scores.max() if metrics.METRICS[metric].greater_is_better else scores.min()
    assert run.scores["valid"][metric]["mean"] == pytest.approx(best, rel=1e-4, abs=1e-5)


def test_training_stops_when_patience_is_out(tmp_path):
    recipe = tiny.recipe(epochs=200, patience=2, **{"optimizer.lr": 0.05})
    run = fit(recipe, tiny.regression(), out=tmp_path / "run")
    history = tiny.history(run)
    assert len(history) < 200
    assert len(history) == history["epoch"][history["kept"]].max() + 2


# What training may see


def poisoned(table: MoleculeTable, run: Run, *parts: str) -> MoleculeTable:
    y = table.y.copy()
    for part in parts:
        y[read_json(run.folder / "split.json")[part]] *= -37
    return replace(table, y=y)


def test_test_labels_do_not_reach_training(reference, tmp_path):
    table = poisoned(tiny.regression(), reference, "test")
    run = fit(tiny.recipe(), table, out=tmp_path / "run")
    assert tiny.same_weights(run, reference)
    pd.testing.assert_frame_equal(tiny.history(run), tiny.history(reference), check_exact=True)
    assert run.scores["valid"] == reference.scores["valid"]
    assert run.scores["test"] != reference.scores["test"]


def test_validation_labels_select_and_do_nothing_else(reference, tmp_path):
    table = poisoned(tiny.regression(), reference, "valid", "test")
    run = fit(tiny.recipe(), table, out=tmp_path / "run")
    scales = [read_json(r.folder / "scalers.json") for r in (run, reference)]
    assert scales[0] == scales[1]
    ours, theirs = tiny.history(run), tiny.history(reference)
    assert ours["loss"].equals(theirs["loss"])
    assert not ours["valid_rmse"].equals(theirs["valid_rmse"])


@pytest.mark.parametrize("scale", VIEWS)
def test_scales_are_those_of_the_training_rows(tmp_path, scale):
    recipe = tiny.recipe(epochs=1, descriptors=True, descriptor_scale=scale)
    run = fit(recipe, tiny.regression(), out=tmp_path / "run")
    train = tiny.regression().y[read_json(run.folder / "split.json")["train"], 0]
    target = read_json(run.folder / "scalers.json")["target"]
    assert target["center"] == pytest.approx([train.mean(dtype=np.float64)])
    assert target["scale"] == pytest.approx([train.std(dtype=np.float64)])
    kept = read_json(run.folder / "scalers.json")["descriptors"]
    prepared = prepare(tiny.regression(), run.recipe.data, 0)
    train = prepared.table.take(prepared.split.train)
    rows = reading.descriptor_matrix(molecules.parse_many(train.smiles).mols)
    assert kept == DescriptorScaler.fit(rows, scale).to_dict()
    assert run.models[0].descriptor_size == VIEWS[scale] * len(molecules.DESCRIPTORS)
    assert np.isfinite(run.predict([*tiny.PROBES, "[Na+].[Cl-]"])["activity"]).all()


def test_a_task_without_training_labels_is_refused_and_named(tmp_path):
    y = np.tile(tiny.regression().y, (1, 2))
    parts = make_split(tiny.regression(), [None] * 60, DataConfig(), 0)  # type: ignore[list-item]
    y[parts.train, 1] = np.nan
    with pytest.raises(DataError, match="no training row has a label for task 1"):
        fit(tiny.recipe(), tiny.relabel(y, "regression"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validation_rows_without_any_label_are_refused(tmp_path):
    y = tiny.regression().y.copy()
    parts = make_split(tiny.regression(), [None] * 60, DataConfig(), 0)  # type: ignore[list-item]
    y[parts.valid] = np.nan
    with pytest.raises(DataError, match="no validation row has a label"):
        fit(tiny.recipe(), tiny.relabel(y, "regression"), out=tmp_path / "run")


CONSTANT = {
    "regression": tiny.relabel(np.full((60, 1), 2.5), "regression"),
    "binary": tiny.relabel(np.ones((60, 2)) * [0, 1], "binary"),
    "multiclass": tiny.relabel(np.zeros((60, 1)), "multiclass", ["only"]),
}


@pytest.mark.parametrize("kind", CONSTANT)
def test_labels_that_never_differ_are_refused(kind, tmp_path):
    with pytest.raises(DataError, match="never differs in the 48 training rows"):
        fit(tiny.recipe(), CONSTANT[kind], out=tmp_path / "run")
    y = CONSTANT[kind].y.copy()
    y[:, 0] = 1 - y[:, 0]
    y[make_split(tiny.regression(), [None] * 60, DataConfig(), 0).train] = 1  # type: ignore[list-item]
    with pytest.raises(DataError, match="never differs in the 48 training rows"):
        fit(tiny.recipe(), replace(CONSTANT[kind], y=y), out=tmp_path / "run")


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_test_rows_may_lack_labels(kind, tmp_path):
    table = tiny.KINDS[kind]()
    y = table.y.copy()
    parts = make_split(table, [None] * 60, DataConfig(), 0)  # type: ignore[list-item]
    y[parts.test] = np.nan
    run = fit(tiny.recipe(epochs=1), replace(table, y=y), out=tmp_path / "run")
    for score in run.scores["test"].values():
        assert math.isnan(score["mean"])
        assert score["excluded"] == list(table.tasks)
    assert len(pd.read_csv(run.folder / "predictions.csv")) == 6


# What training tells


def test_progress_goes_forward_and_tells_each_epoch_once(tmp_path):
    told: list[Progress] = []
    recipe = tiny.recipe(members=2, epochs=2, batch_size=10)
    run = fit(recipe, tiny.regression(), out=tmp_path / "run", progress=told.append)
    places = [(p.member, p.epochs_done) for p in told]
    assert places == sorted(places)
    assert [place for place in places if place[1] % 1 == 0] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert math.isnan(told[0].loss)
    history = tiny.history(run, member=1)
    assert told[-1].loss == history["loss"].iloc[-1]
    assert told[-1].score == history["valid_rmse"].iloc[-1]
    assert all(p.molecules_per_second > 0 and p.metric == "rmse" for p in told)


def test_tensorboard_holds_the_history(reference):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(reference.members[0] / "tensorboard")).Reload()
    history = tiny.history(reference)
    for name in ("loss", "valid_rmse", "lr"):
        told = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in told] == history["epoch"].tolist()
        assert [value for _, value in told] == pytest.approx(history[name].tolist(), rel=1e-6)


def test_repeats_are_runs_of_their_own_seeds(reference, tmp_path):
    runs = fit_repeats(tiny.recipe(), tiny.regression(), 2, out=tmp_path / "many")
    assert [run.info.seed for run in runs] == [0, 1]
    assert [run.folder.name for run in runs] == ["seed-0", "seed-1"]
    tiny.assert_same_run(runs[0], reference)
    assert not tiny.same_weights(*runs)


def test_a_recipe_may_be_named_and_data_be_a_file(tmp_path):
    recipe, table = tmp_path / "mine.toml", tmp_path / "mine.csv"
    tiny.recipe(epochs=1).save(recipe)
    data = {"smiles": tiny.regression().smiles, "y": tiny.regression().y[:, 0]}
    pd.DataFrame(data).to_csv(table, index=False)
    run = fit(recipe, table, out=tmp_path / "run")
    assert run.recipe == Recipe.load(recipe)
    assert run.info.source == str(table)
    assert run.info.tasks == ("y",)


def test_a_data_frame_trains_as_its_file_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = tiny.regression(40)
    frame = pd.DataFrame({"Struktur": table.smiles, "y": table.y[:, 0], "weight": 1.0})
    frame.to_csv("mine.csv", index=False)
    recipe = tiny.recipe(epochs=1, smiles_column="Struktur", targets=["y"])
    runs = [fit(recipe, data) for data in (frame, "mine.csv")]
    assert [run.folder.name for run in runs] == ["frame-1", "mine-1"]
    assert runs[0].info.digest == runs[1].info.digest
    assert runs[0].scores == runs[1].scores
