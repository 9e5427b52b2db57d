"""Studies: what a trial is worth, who takes it, what becomes of it, and what a study leaves."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import kill_tunes
import numpy as np
import optuna
import pandas as pd
import pytest
import tiny
from filelock import FileLock
from kill_tunes import SPACE, TRIALS, outcome, tune
from shell import SMALL, assert_refused, molsam, write_table

from molsam import MoleculeTable, Recipe, epochs, files, fit, preparation, training
from molsam.recipes import DataConfig
from molsam.tuning import (
    FIRST_SEED,
    Objective,
    Study,
    TrialError,
    TuningError,
    best,
    storage,
    workers,
)

FOUND = {"regression": "rmse", "binary": "roc_auc", "multiclass": "accuracy"}


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with tiny.undrawn(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "find_spec", lambda name: None)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study that nothing interrupts."""
    return tune(tmp_path_factory.mktemp("whole") / "tune-tiny")


@pytest.fixture
def landscape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials without training: scores are a function of learning rate, width and split."""

    def score(self: Objective, recipe: Recipe, repeat: int, *_: Any) -> float:
        lr = math.log10(recipe.optimizer.lr) + 3 + (recipe.model.width == 8)
        return lr**2 + (0.0, 0.1, 0.05)[repeat]

    monkeypatch.setattr(Objective, "score", score)


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


# What a trial is worth


@pytest.mark.parametrize("kind", FOUND)
def test_a_score_is_the_validation_score_of_train(kind, tmp_path):
    recipe, table = tiny.recipe(epochs=3, descriptors=True), tiny.KINDS[kind]()
    for repeat in (0, 1):
        run = fit(recipe, table, out=tmp_path / f"run-{repeat}", seed=FIRST_SEED + repeat)
        found = score_of(recipe, table, tmp_path, repeat)
        assert found == pytest.approx(run.scores["valid"][FOUND[kind]]["mean"], abs=1e-6)
        history = tiny.history(run)
        assert found == pytest.approx(history[f"valid_{FOUND[kind]}"][history["best"]].iloc[-1])


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
    mean = preparation.fit_scalers(prepared).target.to_dict()
    bad = poisoned(table, objective, recipe.data, 0, "test", "valid")
    again = preparation.fit_scalers(Objective(bad, recipe).prepare(recipe.data, 0)).target.to_dict()
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
        training, "read_rows", lambda table, choices, **how: calls.append(choices.featurizer)
        or read(table, choices, **how)
    )  # fmt: skip
    objective = Objective(tiny.regression(), tiny.recipe(), searched=["data.descriptors"])
    for name in ("compt", "canonical", "compt"):
        for joined in (True, False):
            choices = DataConfig(featurizer=name, descriptors=joined)  # type: ignore[arg-type]
            prepared = objective.prepare(choices, 0)
            assert (prepared.descriptors is not None) == joined
    assert calls == ["compt", "canonical"]


def test_a_split_that_cannot_be_judged_is_refused_before_any_trial(tmp_path):
    table = tiny.binary()
    rare = tiny.relabel((np.arange(len(table)) < 3)[:, None].astype(float), "binary")
    with pytest.raises(TrialError, match=r"roc_auc cannot judge the validation rows of split seed"):
        tune(tmp_path / "study", table=rare)
    assert not (tmp_path / "study").exists()


# Trials


def test_a_study_holds_its_trials_and_the_first_is_the_recipe_itself(whole):
    assert whole.counts()["complete"] == len(whole.trials) == TRIALS
    first = whole.trials[0]
    assert first.params == {"optimizer.lr": 5e-4, "optimizer.gamma": 1.0, "model.width": 16}
    assert whole.first == whole.scores(first)
    for trial in whole.trials:
        scores = list(whole.scores(trial).values())
        assert trial.value == np.mean(scores)
        assert len(scores) == 2
        assert ("optimizer.rho_epochs" in trial.params) == (trial.params["optimizer.gamma"] < 1)
    assert not list(whole.folder.glob("workers/vm*"))
    assert sum(path.stat().st_size for path in whole.folder.rglob("*")) < 1e6


def test_a_trial_scores_what_its_recipe_scores(whole, tmp_path):
    trial = whole.best_trial
    assert whole.best == tiny.recipe(epochs=1).change(trial.user_attrs["fields"])
    found = [score_of(whole.best, tiny.regression(), tmp_path, repeat) for repeat in (0, 1)]
    assert found == list(whole.scores(trial).values())


@pytest.mark.parametrize("searched", [False, True])
def test_a_trial_trains_one_model_unless_members_are_searched(searched, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(Objective, "score", lambda _, recipe, *__: seen.append(recipe) or 0.0)
    space = SPACE.change({"training.members": [2]}) if searched else SPACE
    choices = {"space": space, "trials": 3, "repeats": 1, "storage": in_memory()}
    study = tune(tmp_path, recipe=tiny.recipe(members=3), **choices)
    assert [recipe.training.members for recipe in seen] == [2 if searched else 1] * 3
    assert study.best.training.members == (2 if searched else 3)


def test_a_seed_makes_the_same_trials_and_another_seed_others(landscape, tmp_path):
    """Past the ten random trials of the sampler, too, and with pruned ones."""
    studies = [
        tune(tmp_path / str(i), trials=25, repeats=3, seed=s) for i, s in enumerate((0, 0, 1))
    ]
    same, again, other = map(outcome, studies)
    assert same == again
    assert [row[1] for row in same[1:]] != [row[1] for row in other[1:]]
    assert studies[0].counts()["pruned"] > 0
    assert len({str(row[1]) for row in same}) == 25


def test_trials_come_nearer_to_the_best(landscape, recwarn, tmp_path):
    study = tune(tmp_path / "study", trials=40, repeats=1, storage=in_memory())
    values = [trial.value for trial in study.trials]
    assert np.median(values[20:]) < np.median(values[:10])
    assert set(study.importances()) == set(SPACE.ranges)
    assert sum(study.importances().values()) == pytest.approx(1)
    few = tune(tmp_path / "few", trials=4, repeats=1, storage=in_memory())
    assert few.importances()
    assert not list(recwarn)


def test_a_trial_that_is_worse_on_two_splits_is_pruned_and_one_that_is_not_is_tried_out(
    landscape, tmp_path
):
    study = tune(tmp_path / "study", trials=12, repeats=3, storage=in_memory())
    best_yet = None
    for trial in study.trials:
        scores = list(study.scores(trial).values())
        worse = best_yet is not None and scores[0] > best_yet[0]  # by as much on each split
        assert (study.state(trial), len(scores)) == (("pruned", 2) if worse else ("complete", 3))
        if not worse:
            best_yet = scores


def test_the_direction_is_the_metrics(tmp_path):
    study = tune(tmp_path / "study", table=tiny.binary(), trials=2)
    assert study.optuna.direction == optuna.study.StudyDirection.MAXIMIZE
    assert study.best_trial.value == max(trial.value for trial in study.trials)
    assert study.ranking()[0].number == study.best_trial.number


def fail_on(monkeypatch: pytest.MonkeyPatch, error: BaseException, times: int = 1) -> None:
    """The second training of the process ends in `error`, and those after it, `times` in all."""
    train, calls = training.train_members, []

    def failing(*how: Any) -> Any:
        calls.append(how)
        if 2 <= len(calls) < 2 + times:
            raise error
        return train(*how)

    monkeypatch.setattr(training, "train_members", failing)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory"),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
            "out of memory: CUDA out of memory. Tried to allocate 2 GiB",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
            "out of memory: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9",
        ),
    ],
    ids=str,
)
def test_a_trial_out_of_memory_fails_with_the_reason_and_the_study_goes_on(
    error, reason, monkeypatch, tmp_path
):
    fail_on(monkeypatch, error)
    study = tune(tmp_path / "study", trials=2)
    assert [(trial.number, why) for trial, why in study.failures()] == [(0, reason)]
    assert study.counts()["complete"] == 1


def test_a_trial_that_diverges_fails_with_the_reason(tmp_path):
    space = SPACE.change({"*": {}, "optimizer.lr": [5e-4, 1e30]})
    study = tune(tmp_path / "study", trials=6, space=space, recipe=tiny.recipe(epochs=3))
    failed = study.failures()
    assert failed
    for trial, reason in failed:
        assert trial.params == {"optimizer.lr": 1e30}
        assert "loss is" in reason or "is nan on split seed" in reason
        assert "try" not in reason
    assert study.best.optimizer.lr == 5e-4


def test_a_study_without_a_complete_trial_says_why(monkeypatch, tmp_path):
    fail_on(monkeypatch, MemoryError())
    monkeypatch.setattr(training, "train_members", lambda *_: (_ for _ in ()).throw(MemoryError()))
    study = tune(tmp_path / "study", trials=2)
    assert study.counts()["failed"] == 2
    with pytest.raises(TuningError, match=r"no trial of .* is complete yet \(out of memory\)"):
        study.best  # noqa: B018
    assert not (study.folder / "best.toml").exists()
    assert study.importances() == {}


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("a bug")], ids=str)
def test_another_error_ends_the_process_and_the_trial_is_tried_again(
    error, whole, monkeypatch, tmp_path
):
    fail_on(monkeypatch, error)
    with pytest.raises(type(error)):
        tune(tmp_path / "study")
    assert outcome(tune(tmp_path / "study")) == outcome(whole)


def test_no_trial_is_started_after_the_timeout(landscape, tmp_path):
    assert tune(tmp_path / "study", timeout=0).counts()["complete"] == 0
    assert tune(tmp_path / "study", timeout=600).counts()["complete"] == TRIALS


# Interrupted, and shared


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one study a case of `kill_tunes`, each dead where the case says."""
    folder = tmp_path_factory.mktemp("killed")
    driver = [sys.executable, kill_tunes.__file__, str(folder), *kill_tunes.CASES, "shared"]
    done = subprocess.run(driver, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", kill_tunes.CASES)
def test_a_killed_study_ends_as_if_nothing_had_happened(name, killed, whole):
    study = tune(killed / name)
    assert outcome(study) == outcome(whole)
    assert Recipe.load(study.folder / "best.toml") == whole.best
    assert_trials_are_written(study)
    assert [path.name for path in (study.folder / "workers").iterdir()] == ["claim.lock"]


def test_a_study_interrupted_in_every_trial_ends_as_if_nothing_had_happened(landscape, tmp_path):
    """With the sampler past its random trials, and trials that are pruned."""
    expected = outcome(tune(tmp_path / "whole", trials=16, repeats=3, storage=in_memory()))
    kept = in_memory()
    score, calls = Objective.score, []

    def interrupted(*how: Any) -> float:
        calls.append(how)
        if len(calls) % 5 == 0:
            raise KeyboardInterrupt
        return score(*how)

    stops = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "score", interrupted)
        while True:
            try:
                study = tune(tmp_path / "study", trials=16, repeats=3, storage=kept)
                break
            except KeyboardInterrupt:
                stops += 1
    assert stops > 5
    assert outcome(study) == expected
    assert len(study.optuna.trials) == 16 + stops


def test_what_kills_its_process_again_and_again_is_given_up(landscape, monkeypatch, tmp_path):
    study = tune(tmp_path / "study", trials=1)
    for _ in range(storage.DEATHS + 1):
        trial = study.optuna.ask()
        trial.set_user_attr("fields", {})
        with storage.quiet():
            workers.retry_dead(study.optuna, study.folder, shared=False)
    assert study.failures()[-1][1] == "its process was killed again and again"
    assert study.counts() == {"complete": 1, "failed": 1, "pruned": 0, "running": 0, "waiting": 0}


def test_a_worker_that_lives_is_left_alone_and_one_of_another_folder_too(landscape, tmp_path):
    study = tune(tmp_path / "study", trials=1)
    elsewhere, here = study.optuna.ask(), study.optuna.ask()
    elsewhere.set_user_attr("worker", "unknown-1-0")
    with storage.quiet(), workers.Worker(study.folder) as worker:
        here.set_user_attr("worker", worker.name)
        workers.retry_dead(study.optuna, study.folder, shared=True)
        assert study.counts()["running"] == 2
        workers.retry_dead(study.optuna, study.folder, shared=False)
        assert study.counts()["running"] == 1
    workers.retry_dead(study.optuna, study.folder, shared=True)
    assert study.counts()["running"] == 1  # its lock is gone: only heartbeats can tell
    with storage.quiet():
        workers.retry_dead(study.optuna, study.folder, shared=False)
    assert study.counts()["running"] == 0
    assert study.counts()["waiting"] == 2


@pytest.mark.parametrize("where", kill_tunes.STORAGES)
def test_processes_share_a_study_and_end_the_trial_of_one_that_died(where, killed):
    """A journal or a database in the folder's reach: its locks say who died."""
    url = kill_tunes.STORAGES[where].format(killed) or None
    study = Study.load(killed / where, storage=url)
    assert study.counts()["complete"] == len(study.trials) == 8
    assert len(study.optuna.trials) == 9
    assert len({str(trial.params) for trial in study.trials}) == 8
    assert len({trial.user_attrs["worker"] for trial in study.trials}) == 2
    assert study.first is not None  # it was the trial of the recipe itself
    assert Recipe.load(study.folder / "best.toml") == study.best
    assert set(assert_trials_are_written(study)["state"]) == {"complete"}


def test_a_finished_study_is_returned_as_it_is_and_can_be_made_longer(landscape, tmp_path):
    study = tune(tmp_path / "study", trials=3)
    left = [study.folder / name for name in ("best.toml", "trials.csv")]
    before = [path.stat().st_mtime_ns for path in left]
    assert outcome(tune(tmp_path / "study", trials=3)) == outcome(study)
    assert [path.stat().st_mtime_ns for path in left] == before
    longer = tune(tmp_path / "study", trials=6)
    assert outcome(longer) == outcome(tune(tmp_path / "whole", trials=6, storage=in_memory()))


def test_a_study_that_was_moved_goes_on(landscape, tmp_path):
    tune(tmp_path / "study", trials=3)
    shutil.move(tmp_path / "study", tmp_path / "moved")
    assert tune(tmp_path / "moved", trials=4).counts()["complete"] == 4
    assert Study.load(tmp_path / "moved").request.name == "study"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"recipe": tiny.recipe(epochs=2)}, "another recipe"),
        ({"space": SPACE.change({"model.width": {}})}, "another space"),
        ({"seed": 1}, "another seed"),
        ({"repeats": 3}, "another repeats"),
        ({"table": "labels"}, "another data"),
        ({"storage": "journal.log"}, "no --storage"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_study_is_not_joined(change, word, whole, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if change.get("table"):
        change = {"table": replace(tiny.regression(), y=tiny.regression().y + 1)}
    before = {p: p.read_bytes() for p in whole.folder.rglob("*") if p.is_file()}
    with pytest.raises(TuningError, match=word):
        tune(whole.folder, **change)
    assert before == {p: p.read_bytes() for p in whole.folder.rglob("*") if p.is_file()}


def test_the_same_name_in_a_database_is_another_study_only_if_it_asks_for_the_same(
    landscape, tmp_path
):
    url = f"sqlite:///{tmp_path}/all.db"
    tune(tmp_path / "a" / "study", storage=url, trials=2)
    joined = tune(tmp_path / "b" / "study", storage=url, trials=4)
    assert len(joined.trials) == 4
    with pytest.raises(TuningError, match="another seed"):
        tune(tmp_path / "c" / "study", storage=url, seed=3)


def test_heartbeats_are_kept_in_a_database_alone(tmp_path):
    with storage.quiet():
        own = storage.open_storage(None, tmp_path)
        given = storage.open_storage(f"sqlite:///{tmp_path}/x.db", tmp_path)
    assert own.get_heartbeat_interval() is None
    assert given.get_heartbeat_interval() == storage.HEARTBEAT
    assert isinstance(given.get_heartbeat_stale_trial_callback(), workers.Retry)


@pytest.mark.parametrize("url", ["nosuchdb://x/y", "sqlite:////no/such/folder/x.db", "http://x"])
def test_a_storage_that_cannot_be_opened_is_refused(url, tmp_path):
    with pytest.raises(TuningError, match=r"cannot be opened.*give the path of a journal file"):
        tune(tmp_path / "study", storage=url)


def test_passwords_are_not_written_down():
    url = "postgresql+psycopg://me:secret:p@db.example:5432/x"
    assert "secret" not in storage.redacted(url)
    assert storage.redacted("sqlite:///a.db") == "sqlite:///a.db"
    assert storage.redacted(f"--storage={url}").startswith("--storage=postgresql+psycopg://me:***@")


def test_optuna_says_nothing_and_is_left_as_it_was(landscape, tmp_path, capfd, recwarn):
    before = optuna.logging.get_verbosity()
    tune(tmp_path / "study", trials=2)
    assert capfd.readouterr() == ("", "")
    assert not list(recwarn)
    assert optuna.logging.get_verbosity() == before


# What a study leaves


def test_the_best_recipe_is_a_file_with_its_evidence(whole):
    text = (whole.folder / "best.toml").read_text()
    assert Recipe.load(whole.folder / "best.toml") == whole.best
    best, first = whole.best_trial, whole.trials[0]
    scores = whole.scores(best)
    for part in (
        f"Trial {best.number} of the study tune-tiny on bundled: {TRIALS} complete.",
        f"rmse {best.value:.4g} on validation rows ({scores[0]:.4g}, {scores[1]:.4g} on split "
        "seeds 1000, 1001)",
        f"The recipe it started from: {first.value:.4g}.",
        "molsam.tune",
        f"optuna {optuna.__version__}",
        f"{time.strftime('%Y')}-",
    ):
        assert part in text
    lr = whole.best.optimizer.lr
    assert f"lr = {lr} # searched: 0.0001 to 0.01, log" in text
    assert "beta" not in text  # as by default, and not searched


def test_the_table_has_a_row_a_trial(whole, monkeypatch, tmp_path):
    table = whole.table()
    assert list(table["trial"]) == [trial.number for trial in whole.trials]
    assert table["score"].tolist() == [trial.value for trial in whole.trials]
    assert table["optimizer.lr"].between(1e-4, 1e-2).all()
    assert np.allclose(table[["split 0", "split 1"]].mean(axis=1), table["score"])
    assert isinstance(table, pd.DataFrame)


def test_the_trials_of_a_study_are_a_file(whole):
    written = assert_trials_are_written(whole)
    assert list(written) == [
        "trial", "state", "score", "split 0", "split 1", *SPACE.ranges, "seconds", "reason",
    ]  # fmt: skip
    assert len(written) == TRIALS
    cells = (whole.folder / "trials.csv").read_text().replace("\n", ",").split(",")
    for trial in whole.trials:
        assert {f"{score:.6g}" for score in whole.scores(trial).values()} <= set(cells)


def test_trials_that_were_given_up_or_failed_are_in_the_file_too(landscape, monkeypatch, tmp_path):
    score, words = Objective.score, 'out of memory, "at last"'

    def failing(self: Objective, recipe: Recipe, repeat: int, *how: Any) -> float:
        if recipe.model.width == 8:
            raise TrialError(words)
        return score(self, recipe, repeat, *how)

    monkeypatch.setattr(Objective, "score", failing)
    study = tune(tmp_path / "study", trials=12, repeats=3, storage=in_memory())
    written = assert_trials_are_written(study).set_index("state")
    assert set(written.index) == {"complete", "pruned", "failed"}
    assert set(written.loc["failed", "reason"]) == {words}
    assert written.loc["failed", "split 0"].isna().all()
    assert written.loc["pruned", ["score", "split 2"]].isna().all(axis=None)
    assert written.loc["complete", ["score", "split 2", "optimizer.lr"]].notna().all(axis=None)


def test_a_study_that_failed_altogether_leaves_its_trials(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "train_members", lambda *_: (_ for _ in ()).throw(MemoryError()))
    written = assert_trials_are_written(tune(tmp_path / "study", trials=2))
    assert written["reason"].tolist() == ["out of memory"] * 2


def test_what_a_study_leaves_is_made_up_for_if_its_last_worker_was_stopped_before(
    landscape, monkeypatch, tmp_path
):
    tune(tmp_path / "study", trials=2)
    to_toml = best.to_toml

    def stopped(study: Study, command: str) -> str:
        if study.counts()["complete"] == 5:
            raise KeyboardInterrupt
        return to_toml(study, command)

    monkeypatch.setattr(best, "to_toml", stopped)
    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path / "study", trials=5, repeats=2)
    monkeypatch.setattr(best, "to_toml", to_toml)
    study = tune(tmp_path / "study", trials=5, repeats=2)
    assert study.counts()["complete"] == 5
    assert "5 complete" in (study.folder / "best.toml").read_text()
    assert_trials_are_written(study)


def test_what_is_no_study_is_refused(whole, tmp_path):
    with pytest.raises(TuningError, match="there is no study in"):
        Study.load(tmp_path)
    with pytest.raises(TuningError, match="no --storage"):
        Study.load(whole.folder, storage="sqlite:///x.db")
    lost = shutil.copytree(whole.folder, tmp_path / "lost")
    (lost / "study.db").unlink()
    with pytest.raises(TuningError, match="has lost its study tune-tiny"):
        Study.load(lost)
    (lost / "tune.json").write_text("{}")
    with pytest.raises(files.RunError, match=r"tune\.json was edited"):
        Study.load(lost)


# The command


@pytest.fixture(scope="module")
def shell_study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Path]:
    """What the command said of a study of a CSV, its folder, and the CSV."""
    folder = tmp_path_factory.mktemp("shell")
    mine = write_table(folder / "mine.csv")
    space = folder / "space.toml"
    space.write_text('[search]\n"*" = {}\nlr = {low = 1e-4, high = 1e-2, log = true}\ndepth = 1\n')
    result = molsam(
        "tune", "--data", mine, "--target", "pIC50", *SMALL, "--epochs", 1, "--space", space,
        "--trials", 3, "--repeats", 2, "--out", folder / "tune-mine",
    )  # fmt: skip
    return result, folder / "tune-mine", mine


def test_a_study_tells_its_trials_and_its_best(shell_study):
    (code, out, err), folder, mine = shell_study
    assert code == 0, err
    study = Study.load(folder)
    lines = err.splitlines()
    assert lines[0] == f"{mine}: 60 molecules, regression, target pIC50"
    assert [line.split(":")[0] for line in lines[1:]] == ["trial 0", "trial 1", "trial 2"]
    best = study.best_trial
    assert lines[-1].endswith(f"; best {best.value:.4g} (trial {best.number})")
    assert out.splitlines()[0] == f"tune-mine, {mine}: 3 complete"
    assert out.splitlines()[-1] == f"best recipe: {folder / 'best.toml'}"
    text = (folder / "best.toml").read_text()
    assert "molsam tune --data" in text
    assert study.best.data.targets == ("pIC50",)


def test_show_prints_a_study_at_eighty_columns_and_leaves_it_alone(shell_study, monkeypatch):
    folder = shell_study[1]
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(folder.parent)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    code, out, err = molsam("tune", "--show", folder.name + os.sep)
    assert (code, err) == (0, "")
    shown = out.splitlines()[1:]
    assert max(map(len, shown)) <= 80
    assert any(line.split()[:1] == ["optimizer.lr"] for line in shown)
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    (folder.parent / "runs").mkdir()
    shutil.copytree(folder, folder.parent / "runs" / "tune-mine")
    assert molsam("tune", "--show", "mine").out == out
    assert_refused(molsam("tune", "--show", "other"), "there is no study in other")


def test_train_takes_the_best_recipe(shell_study, tmp_path):
    _, folder, mine = shell_study
    run = molsam(
        "train", "--data", mine, "--recipe", folder / "best.toml", "--out", tmp_path / "run"
    )  # fmt: skip
    assert run.code == 0, run.err
    assert Recipe.load(tmp_path / "run" / "recipe.toml") == Study.load(folder).best


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["name a data set"]),
        (["bundled", "--space", "missing.toml"], ["missing.toml", "No such file"]),
        (["bundled", "--set", "metric=roc_auc"], ["'roc_auc' does not serve regression"]),
        (["bundled", "--device", "abacus"], ["'abacus' cannot be used"]),
    ],
    ids=str,
)
def test_what_cannot_be_tuned_is_refused(words, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(molsam("tune", *words), *parts)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_says_how_to_go_on(shell_study, monkeypatch, tmp_path):
    def stop(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(Objective, "score", stop)
    words = ["tune", "--data", shell_study[2], "--epochs", 1, "--out", tmp_path / "study"]
    code, _, err = molsam(*words)
    assert code == 130
    assert f"go on with: molsam {' '.join(map(str, words))}" in err
    study = Study.load(tmp_path / "study")
    assert study.counts() == {"complete": 0, "failed": 0, "pruned": 0, "running": 0, "waiting": 1}


@pytest.mark.parametrize("kept", [None, "journal.log"])
def test_the_dashboard_shows_a_study(kept, landscape, tmp_path):
    pytest.importorskip("optuna_dashboard", reason="pip install optuna-dashboard")
    where = None if kept is None else str(tmp_path / kept)
    study = tune(tmp_path / "study", storage=where, trials=2)
    url = where or f"sqlite:///{study.folder / 'study.db'}"
    command = [Path(sys.executable).with_name("optuna-dashboard"), url, "--port", "0"]
    shown = subprocess.Popen(
        [sys.executable, "-c", DASHBOARD, *map(str, command)], stdout=subprocess.PIPE, text=True
    )
    try:
        port = int(shown.stdout.readline())  # type: ignore[union-attr]
        page = urllib.request.urlopen(f"http://localhost:{port}/api/studies", timeout=30).read()
    finally:
        shown.kill()
        shown.wait()
    assert b'"study"' in page


# The command itself, which tells the port that the system has chosen.
DASHBOARD = """
import sys
from optuna_dashboard import _cli
make = _cli.make_server
def making(*how, **where):
    server = make(*how, **where)
    print(server.server_port, flush=True)
    return server
_cli.make_server = making
sys.argv = sys.argv[1:] + ["--server", "wsgiref"]
_cli.main()
"""


def test_the_lock_of_a_worker_is_dropped_by_its_death(tmp_path):
    """What the retries stand on: SIGKILL leaves the file, and not the lock."""
    code = (
        "import os, signal, pathlib; from molsam.tuning.workers import Worker;"
        f"Worker(pathlib.Path({str(tmp_path)!r})).__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    (lock,) = (tmp_path / "workers").glob("*.lock")
    with FileLock(lock, timeout=0):
        pass
