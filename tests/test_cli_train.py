"""`molsam train`: what it prints, what it leaves, and how it goes on."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shell
import tiny
from shell import assert_refused, molsam, train, write_table

from molsam import Recipe, Run, files, gaussian_process, training
from molsam.files import read_json
from molsam.runs import WEIGHTS

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of sixty molecules."""
    return write_table(tmp_path_factory.mktemp("data") / "mine.csv")


@pytest.fixture(scope="module")
def done(mine, tmp_path_factory) -> tuple[shell.Result, Path]:
    """What the shell said of a run with seed 0, and its folder."""
    folder = tmp_path_factory.mktemp("done") / "run"
    return train("--data", mine, "--target", "pIC50", "--out", folder), folder


def columns(*words: str) -> str:
    return r"\s+".join(map(re.escape, words))


# Training


def test_a_run_tells_its_data_its_epochs_its_scores_and_its_folder(done, mine):
    (code, out, err), folder = done
    assert code == 0
    assert err.splitlines()[0] == f"{mine}: 60 molecules, regression, target pIC50"
    epochs = [line for line in err.splitlines() if line.startswith("epoch")]
    assert len(epochs) == 3
    assert re.fullmatch(r"epoch 3/3  loss \d\.\d{3}  rmse \d\.\d{3}  [\d,]+ molecules/s", epochs[2])
    assert re.search(columns("validation", "test"), out)
    scores = Run.load(folder).scores
    for title, name in (("RMSE", "rmse"), ("MAE", "mae"), ("R²", "r2")):
        printed = [f"{scores[part][name]['mean']:.3f}" for part in ("valid", "test")]
        assert re.search(columns(title, *printed), out)
    assert out.splitlines()[-1] == f"run folder: {folder}"


def test_the_options_are_the_recipe(done, mine, tmp_path):
    run = Run.load(done[1])
    assert run.recipe == Recipe.load("default").change(tiny.SMALL | {"targets": ("pIC50",)})
    assert run.info.source == str(mine)
    other = train(
        "--data", mine, "--target", "pIC50", "--smiles", "smiles", "--epochs", 2, "--seed", 3,
        "--split", "scaffold", "--set", "rho=0.02", "--set", "optimizer.name=sam",
        "--set", "fractions=[0.7, 0.2, 0.1]", "--device", "cpu", "--out", tmp_path / "run",
    )  # fmt: skip
    assert other.code == 0, other.err
    run = Run.load(tmp_path / "run")
    assert run.info.seed == 3
    recipe = run.recipe
    assert (recipe.training.epochs, recipe.data.split) == (2, "scaffold")
    assert (recipe.optimizer.name, recipe.optimizer.rho) == ("sam", 0.02)
    assert recipe.data.fractions == (0.7, 0.2, 0.1)
    assert recipe.data.smiles_column == "smiles"
    assert run.info.molecules["valid"] == pytest.approx(12, abs=3)


def test_set_has_the_last_word(mine, tmp_path):
    result = train(
        "--data", mine, "--target", "pIC50", "--epochs", 9, "--set", "epochs=1",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert result.code == 0
    assert Run.load(tmp_path / "run").recipe.training.epochs == 1


def test_guessed_targets_are_told(tmp_path):
    table = write_table(tmp_path / "t.csv", other=range(60), text="x")
    result = train("--data", table, "--epochs", 1, "--out", tmp_path / "run")
    assert "targets pIC50, other (all numeric columns; choose with --target)" in result.err
    assert Run.load(tmp_path / "run").info.tasks == ("pIC50", "other")


def test_several_targets(tmp_path):
    table = write_table(tmp_path / "t.csv", a=range(60), b=range(60, 0, -1))
    result = train(
        "--data", table, "--target", "b", "--target", "a", "--epochs", 1, "--out", tmp_path / "run"
    )
    assert result.code == 0
    assert Run.load(tmp_path / "run").info.tasks == ("b", "a")


def test_bad_rows_are_told_with_row_and_reason(tmp_path):
    smiles = list(tiny.regression().smiles)
    smiles[0], smiles[9], smiles[59] = "xyz", "", "C(C)(C)(C)(C)C"
    smiles[20:24] = ["[bad]"] * 4
    table = write_table(tmp_path / "t.csv", smiles=smiles)
    result = train("--data", table, "--target", "pIC50", "--epochs", 1, "--out", tmp_path / "run")
    assert result.code == 0
    assert "7 rows could not be read and took no part:" in result.err
    assert "  row 1: xyz: not valid SMILES" in result.err
    assert "  row 10: : empty" in result.err
    assert "  row 21: [bad]: not valid SMILES" in result.err
    assert f"  and 2 more, in {tmp_path / 'run' / 'run.json'}" in result.err.replace("\n", "")
    assert read_json(tmp_path / "run" / "run.json")["bad_rows"][-1][0] == 60


def test_text_classes_and_their_left_out_scores(tmp_path):
    y = tiny.regression().y[:, 0]
    table = write_table(tmp_path / "t.csv", phase=np.where(y > np.median(y), "wet", "dry [very]"))
    result = train(
        "--data", table, "--target", "phase", "--epochs", 1, "--out", tmp_path / "run", "--set",
        "fractions=[0.94, 0.03, 0.03]",
    )  # fmt: skip
    assert result.code == 0
    assert "multiclass, target phase" in result.err
    number = r"\s+-?(nan|\d\.\d{3})"
    for title in ("ROC-AUC", "accuracy", "F1", "MCC"):
        assert re.search(f"\n{title}{number}{number} *\n", result.out)
    run = Run.load(tmp_path / "run")
    assert run.info.classes == ("dry [very]", "wet")
    lacking = any(score["excluded"] for score in run.scores["test"].values())
    assert lacking == ("left out of some scores: phase" in result.out)


def test_progress_of_an_ensemble_names_its_model(mine, tmp_path):
    result = train(
        "--data", mine, "--target", "pIC50", "--epochs", 20, "--set", "members=2",
        "--set", "batch_size=60", "--out", tmp_path / "run",
    )  # fmt: skip
    lines = [line.split("  ")[0] for line in result.err.splitlines() if line.startswith("model")]
    assert lines == [f"model {m}/2 epoch {e}/20" for m in (1, 2) for e in range(2, 21, 2)]
    scores = Run.load(tmp_path / "run").scores
    both = [scores[part]["rmse"]["mean"] for part in ("test", "first member, test")]
    assert both[0] != both[1]
    assert re.search(columns("validation", "test", "first member alone, test"), result.out)
    valid = scores["valid"]["rmse"]["mean"]
    assert re.search(columns("RMSE", *(f"{score:.3f}" for score in (valid, *both))), result.out)


def test_scores_tell_what_a_process_adds(mine, tmp_path, monkeypatch):
    words = "--data", mine, "--target", "pIC50", "--epochs", 1, "--out", tmp_path / "run"
    alone = columns("validation", "test", "models alone, test")
    assert not re.search(alone, train(*words).out)
    words = *words[:-1], tmp_path / "runs", "--repeats", 2, "--set", "gaussian_process=true"
    result = train(*words)
    assert re.search(alone, result.out)
    assert "no Gaussian process" not in result.out
    for room in (training, gaussian_process):
        monkeypatch.setattr(room, "MOST_ROWS", 7)
    words = *words[:-5], tmp_path / "bare", "--set", "gaussian_process=true"
    result = train(*words)
    assert "no Gaussian process: it serves up to 7 training molecules\n" in result.out


def test_a_forest_beside(mine, tmp_path):
    result = train(
        "--data", mine, "--target", "pIC50", "--epochs", 1, "--baseline", "--out", tmp_path / "run"
    )
    forest = Run.load(tmp_path / "run").scores["random forest, test"]["rmse"]["mean"]
    assert re.search(columns("validation", "test", "random forest, test"), result.out)
    assert re.search(rf"RMSE +\S+ +\S+ +{forest:.3f} ", result.out)


def test_a_forest_joins_a_finished_run(mine, tmp_path):
    asked = ("--data", mine, "--target", "pIC50", "--epochs", 1)
    train(*asked, "--baseline", "--out", tmp_path / "at-once")
    train(*asked, "--out", tmp_path / "run")
    result = molsam("train", "--resume", tmp_path / "run", "--baseline")
    assert re.search(columns("validation", "test", "random forest, test"), result.out)
    run = Run.load(tmp_path / "run")
    assert run.finished
    assert run.scores == Run.load(tmp_path / "at-once").scores


def test_a_run_without_test_rows_is_told_by_its_validation_rows(mine, tmp_path):
    asked = ("--data", mine, "--target", "pIC50", "--set", "fractions=[0.9, 0.1, 0]")
    result = train(*asked, "--out", tmp_path / "run")
    assert result.code == 0, result.err
    run = Run.load(tmp_path / "run")
    assert (run.info.molecules["train"], run.info.molecules["test"]) == (54, 0)
    assert list(run.scores) == ["valid"]
    rmse = run.scores["valid"]["rmse"]["mean"]
    assert re.search(columns("RMSE", f"{rmse:.3f}"), result.out)
    assert "test" not in result.out.removesuffix(f"run folder: {tmp_path / 'run'}\n")
    assert not (tmp_path / "run" / "predictions.csv").exists()
    assert np.isfinite(run.predict(["CCO"])["pIC50"]).all()
    refused = train(*asked, "--baseline", "--out", tmp_path / "other")
    assert_refused(refused, "no test rows to compare models on", "data.fractions")
    assert not (tmp_path / "other").exists()


def test_repeats_print_mean_and_standard_deviation(mine, done, tmp_path):
    result = train("--data", mine, "--target", "pIC50", "--repeats", 2, "--out", tmp_path / "many")
    assert result.code == 0
    runs = [Run.load(tmp_path / "many" / f"seed-{s}") for s in (0, 1)]
    tiny.assert_same_run(runs[0], Run.load(done[1]))
    values = [run.scores["test"]["rmse"]["mean"] for run in runs]
    assert f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" in result.out
    assert "mean ± standard deviation over 2 runs, seeds 0 to 1" in result.out
    assert result.out.splitlines()[-1] == f"run folder: {tmp_path / 'many'}"
    shutil.rmtree(runs[1].folder)
    again = molsam("train", "--resume", tmp_path / "many")
    assert again.code == 0
    assert again.out == result.out
    tiny.assert_same_run(Run.load(runs[1].folder), runs[1])


@pytest.mark.parametrize("split", ["random", "paper", "balanced_scaffold", "stratified", "k_fold"])
def test_splits_by_name(split, mine, tmp_path):
    result = train(
        "--data", mine, "--target", "pIC50", "--epochs", 1, "--split", split,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert result.code == 0, result.err
    used = sum(len(part) for part in read_json(tmp_path / "run" / "split.json").values())
    assert used == 60


def test_a_split_from_a_file_wherever_the_run_is_resumed(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = {"train": list(range(40)), "valid": [40, 41, 42], "test": [50, 51, 52, 53]}
    Path("s.json").write_text(json.dumps(parts))
    result = train("--data", mine, "--target", "pIC50", "--split", "s.json", "--out", "run")
    assert result.code == 0, result.err
    assert read_json(tmp_path / "run" / "split.json") == parts
    monkeypatch.chdir("/")
    assert molsam("train", "--resume", tmp_path / "run").code == 0


def test_a_split_from_a_column(tmp_path):
    words = ["train"] * 40 + ["val"] * 10 + ["Test"] * 10
    table = write_table(tmp_path / "t.csv", fold=words)
    fields = ["--set", "split=column", "--set", "split_column=fold"]
    result = train(
        "--data", table, "--target", "pIC50", "--epochs", 1, *fields, "--out", tmp_path / "run"
    )
    assert result.code == 0, result.err
    assert read_json(tmp_path / "run" / "split.json")["test"] == list(range(50, 60))


def test_a_known_set_has_a_recipe_of_its_own_and_runs_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = train("bundled", "--epochs", 1, "--set", "split=random", "--set", "batch_size=256")
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == "run folder: runs/bundled-1"
    assert Run.load("runs/bundled-1").recipe.task == Recipe.load("bundled").task
    assert "bundled: 1,017 molecules" in result.err


def test_the_table_of_test_rows_names_the_rows_of_the_file(done):
    table = pd.read_csv(Run.load(done[1]).info.source)
    written = pd.read_csv(done[1] / "predictions.csv")
    assert written["smiles"].tolist() == table["smiles"][written["row"] - 1].tolist()
    assert np.allclose(written["measured pIC50"], table["pIC50"][written["row"] - 1], rtol=1e-5)


# MoleculeNet


def tiny_run_of(name: str, folder: Path, data_dir: Path) -> shell.Result:
    return train(
        name, "--epochs", 1, "--set", "batch_size=64", "--out", folder, "--data-dir", data_dir
    )


def test_esol(moleculenet, tmp_path):
    result = tiny_run_of("esol", tmp_path / "run", moleculenet)
    assert result.code == 0, result.err
    assert "esol: 1,128 molecules, regression" in result.err
    assert "could not be read" not in result.err
    assert Run.load(tmp_path / "run").columns()[0].endswith("[log10(mol/L)]")


def test_bbbp_has_eleven_rows_that_nobody_can_read(moleculenet, tmp_path, monkeypatch):
    monkeypatch.setenv("MOLSAM_DATA", str(moleculenet))
    result = train("bbbp", "--epochs", 1, "--set", "batch_size=64", "--out", tmp_path / "run")
    assert result.code == 0, result.err
    assert "bbbp: 2,050 molecules, binary, target p_np" in result.err
    assert "11 rows could not be read and took no part:" in result.err
    assert Run.load(tmp_path / "run").info.molecules["unreadable"] == 11


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "name", ["freesolv", "lipophilicity", "bace", "clintox", "sider", "tox21", "hiv", "muv"]
)
def test_every_recipe_of_moleculenet(name, moleculenet, tmp_path):
    result = tiny_run_of(name, tmp_path / "run", moleculenet)
    assert result.code == 0, result.err
    run = Run.load(tmp_path / "run")
    assert run.recipe.task == name
    assert np.isfinite(run.predict(tiny.PROBES).iloc[:, 1]).all()


# Going on


def test_resuming_a_finished_run_says_its_scores_again(done):
    result, folder = done
    again = molsam("train", "--resume", folder)
    assert (again.code, again.out) == (0, result.out)


def unfinished(folder: Path, to: Path) -> Path:
    """A copy of a run as it was before its first epoch."""
    shutil.copytree(folder, to)
    shutil.rmtree(to / "member-0")
    (to / files.SUMS).unlink()
    return to


@pytest.mark.parametrize(
    "extra",
    [
        ["bundled"],
        ["--data", "mine.csv"],
        ["--epochs", 9],
        ["--set", "rho=0.1"],
        ["--seed", 4],
        ["--repeats", 2],
        ["--recipe", "esol"],
        ["--out", "elsewhere"],
        ["--split", "scaffold"],
        ["--target", "pIC50"],
        ["--smiles", "smiles"],
    ],
    ids=str,
)
def test_resume_leaves_no_choice(extra, done):
    option = "NAME" if extra == ["bundled"] else extra[0]
    result = molsam("train", "--resume", done[1], *extra)
    assert_refused(result, "--resume takes all choices from the run", f"leave {option} out")


def test_resume_wants_the_same_data(done, tmp_path):
    data = write_table(tmp_path / "mine.csv")
    train("--data", data, "--target", "pIC50", "--out", tmp_path / "whole")
    folder = unfinished(tmp_path / "whole", tmp_path / "run")
    assert molsam("train", "--resume", folder).code == 0
    write_table(data, pIC50=range(60))
    result = molsam("train", "--resume", folder)
    assert_refused(result, f"{data} is not the data that {folder} was started with")
    data.unlink()
    assert_refused(molsam("train", "--resume", folder), f"there is no file {data}")


def test_resume_wants_a_run(tmp_path):
    assert_refused(molsam("train", "--resume", tmp_path / "no"), "there is no run folder")
    assert_refused(molsam("train", "--resume", tmp_path), "run.json is missing")


@pytest.mark.parametrize("name", ["run.json", "repeats.json"])
@pytest.mark.parametrize("text", ["", "{}", '{"seed": 1}', "[1]"])
def test_resume_of_a_damaged_record_names_it(name, text, done, tmp_path):
    folder = unfinished(done[1], tmp_path / "run")
    (folder / name).write_text(text)
    assert_refused(molsam("train", "--resume", folder), name)


VICTIM = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from molsam import cli, epochs, pictures
pictures.draw = lambda *_: None
tell = epochs.Trainer._tell
epochs.Trainer._tell = lambda *given: (time.sleep(0.3), tell(*given))
cli.main()
"""


@pytest.fixture(scope="module")
def stopped(mine, tmp_path_factory) -> dict[str, tuple[int, str, Path]]:
    """Exit code, stderr and folder of two runs of seed 0, each stopped in its second epoch."""
    folder = tmp_path_factory.mktemp("stopped runs")
    command = [sys.executable, "-c", VICTIM, "train", *shell.SMALL, "--target", "pIC50"]
    command += ["--epochs", "3", "--data", str(mine), "--out"]
    victims = {
        name: subprocess.Popen([*command, str(folder / name)], stderr=subprocess.PIPE, text=True)
        for name in ("SIGINT", "SIGTERM")
    }
    waiting = dict(victims)
    while waiting:
        time.sleep(0.02)
        for name in [n for n in waiting if list(folder.glob(f"{n}/*/{WEIGHTS}"))]:
            waiting.pop(name).send_signal(getattr(signal, name))
        assert all(victim.poll() is None for victim in waiting.values())
    said = {name: victim.communicate(timeout=60)[1] for name, victim in victims.items()}
    return {name: (victims[name].returncode, said[name], folder / name) for name in victims}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_with_the_command_that_goes_on(name, stopped, done, tmp_path):
    code, err, folder = stopped[name]
    assert code == 130
    assert err.splitlines()[-1] == f"stopped; go on with: molsam train --resume '{folder}'"
    assert "Traceback" not in err
    assert not files.sealed(folder)
    assert np.isfinite(Run.load(folder).predict(["CCO"])["pIC50"]).all()
    result = molsam("train", "--resume", folder)
    assert result.code == 0, result.err
    tiny.assert_same_run(Run.load(folder), Run.load(done[1]))


def test_the_command_that_goes_on_keeps_what_no_run_remembers(mine, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "finish_run", interrupted)
    kept = ["--device", "cpu", "--data-dir", str(tmp_path), "--processes", "1", "--baseline"]
    result = train("--data", mine, "--target", "pIC50", "--out", tmp_path / "run", *kept)
    command = f"molsam train --resume {tmp_path / 'run'} {' '.join(kept)}"
    assert result.err.splitlines()[-1] == f"stopped; go on with: {command}"


def test_a_signal_before_training_promises_nothing(mine, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "prepare", interrupted)
    result = train("--data", mine, "--target", "pIC50", "--out", tmp_path / "run")
    assert result.code == 130
    assert result.err.splitlines()[-1] == "stopped; before training began; start again"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_full_disk_ends_in_one_sentence_and_the_run_goes_on(mine, done, tmp_path, monkeypatch):
    left = iter(range(8))

    def replace(partial, path):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.rename(partial, path)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace)
        result = train("--data", mine, "--target", "pIC50", "--out", tmp_path / "run")
    assert_refused(result, "cannot write", ": No space left on device; what was finished stays")
    assert "[Errno" not in result.err
    assert molsam("train", "--resume", tmp_path / "run").code == 0
    tiny.assert_same_run(Run.load(tmp_path / "run"), Run.load(done[1]))
