"""The command `molsam tune`, and the dashboard."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

import pytest
from filelock import FileLock
from kill_tunes import tune
from shell import SMALL, assert_refused, molsam, write_table

from molsam import Recipe
from molsam.tuning import Objective, Study

pytestmark = pytest.mark.usefixtures("quick")


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
        (
            ["bundled", "--set", "width=32"],
            ["model.width = 32 is not among what is searched (", '"model.width" = 32 keeps it'],
        ),
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
