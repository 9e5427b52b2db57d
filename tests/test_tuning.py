"""Studies: which trials they make, what becomes of them, and what a study leaves."""

from __future__ import annotations

import shutil
import time
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import tiny
from kill_tunes import SPACE, TRIALS, outcome, tune
from studied import assert_trials_are_written, in_memory, score_of

from molsam import Recipe, files, training
from molsam.tuning import Objective, Study, TrialError, TuningError, best

pytestmark = pytest.mark.usefixtures("quick")


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
    request = files.read_json(lost / "tune.json")
    for name, value in (
        ("recipe", {"model": {"x": 1}}),
        ("space", {"ranges": {"optimizer.lr": {"low": 2, "high": 1}}}),
        ("space", {"ranges": {"model.width": {"choices": ["%", True]}}}),
    ):
        files.write_json(lost / "tune.json", request | {name: value})
        with pytest.raises(files.RunError, match=r"tune\.json is damaged"):
            Study.load(lost)
    files.write_json(lost / "tune.json", request)
    (lost / "study.db").unlink()
    with pytest.raises(TuningError, match="has lost its study tune-tiny"):
        Study.load(lost)
    (lost / "tune.json").write_text("{}")
    with pytest.raises(files.RunError, match=r"tune\.json was edited"):
        Study.load(lost)
