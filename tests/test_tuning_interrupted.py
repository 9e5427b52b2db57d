"""Studies that are killed, interrupted, shared and moved."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import grpc
import kill_tunes
import optuna
import pytest
import tiny
from kill_tunes import SPACE, outcome, tune
from studied import assert_trials_are_written, in_memory

from molsam import Recipe
from molsam.tuning import Objective, Study, TuningError, storage, workers

pytestmark = pytest.mark.usefixtures("quick")


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
def test_four_processes_share_a_study_and_one_is_killed_in_its_trial(where, killed):
    """None is lost, none is doubled; the folder's locks say who died, whatever the storage."""
    url = kill_tunes.STORAGES[where].format(folder=killed, port=0)
    if where == "grpc":  # its server has gone; what was behind it has all
        url = f"sqlite:///{killed}/studies.db"
        record = killed / where / "tune.json"
        record.write_text(re.sub(r"grpc://localhost:\d+", url, record.read_text()))
    study = Study.load(killed / where, storage=url or None)
    asked = kill_tunes.SHARED_TRIALS
    assert study.counts()["complete"] == len(study.trials) == asked
    assert len(study.optuna.trials) == asked + 1
    assert len({str(trial.params) for trial in study.trials}) == asked
    names = [
        {t.user_attrs["worker"] for t in trials} for trials in (study.trials, study.optuna.trials)
    ]
    assert [len(each) for each in names] == [kill_tunes.WORKERS - 1, kill_tunes.WORKERS]
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


@pytest.mark.parametrize("url", ["grpc://localhost", "grpc://:13000", "grpc://host:port"])
def test_an_address_that_is_none_is_refused(url, tmp_path):
    with pytest.raises(TuningError, match=r"names no server; write grpc://host:port"):
        storage.open_storage(url, tmp_path)


def test_a_server_that_does_not_answer_is_waited_for_and_named(monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "PATIENCE", 0.3)
    with pytest.raises(TuningError, match=r"no server has answered at grpc://localhost:1 for 0.3"):
        tune(tmp_path / "study", storage="grpc://localhost:1")


def test_a_server_that_goes_away_is_named(landscape, monkeypatch, tmp_path):
    def gone(*_: Any) -> NoReturn:
        raise grpc.RpcError

    kept = in_memory()
    monkeypatch.setattr(kept, "set_trial_intermediate_value", gone)
    with pytest.raises(TuningError, match=r"InMemoryStorage answers no more; once it does"):
        tune(tmp_path / "study", storage=kept)


def test_the_packages_of_a_proxy_are_named_where_they_are_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(
        TuningError, match=r"needs grpcio and protobuf: pip install 'molsam\[grpc\]'"
    ):
        storage.open_storage("grpc://localhost:13000", tmp_path)


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
