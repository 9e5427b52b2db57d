"""molsam bench predict and train: processes of their own, a chemprop beside, and what is said."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import tiny
from shell import molsam

from molsam import Recipe, screen
from molsam.bench import predicting, training
from molsam.bench.tables import random_table

CHEMPROP = """#!{python}
import sys
words = sys.argv[1:]
given = dict(zip(words[1::2], words[2::2]))
if words[0] == "train":
    assert open(given["--data-path"]).readline() == "smiles,y\\n"
    assert given["--epochs"] == "3"
    features = given.get("--molecule-featurizers", "none")
    open(given["--output-dir"], "w").write(features)
else:
    assert open(given["--model-paths"]).read() == given.get("--molecule-featurizers", "none")
    smiles = open(given["--test-path"]).read().split()[1:]
    open(given["--preds-path"], "w").write(str(len(smiles)))
"""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The default recipe, but tiny; runs without pictures."""
    recipe = Recipe().change({**tiny.SMALL, "training.epochs": 1})
    monkeypatch.setattr(predicting, "Recipe", lambda: recipe)
    monkeypatch.setattr(training, "Recipe", lambda: recipe)
    with tiny.undrawn():
        yield


@pytest.fixture
def fake_chemprop(tmp_path, monkeypatch):
    program = tmp_path / "chemprop"
    program.write_text(CHEMPROP.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("fake_chemprop")
def test_prediction_beside_a_chemprop(capsys):
    result = molsam("bench", "predict", "--rounds", 1, "--count", 5, "--device", "cpu", "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["settings"] == {"count": 5, "rounds": 1, "table": None}
    ours, other, described, _ = report["rows"]
    assert [row["form"] for row in report["rows"]] == [
        "molsam",
        "chemprop",
        "molsam, descriptors",
        "chemprop, rdkit_2d",
    ]
    for row in (ours, described):
        assert 0 < row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert ours["ratio"] == pytest.approx(
        ours["molecules_per_second"] / other["molecules_per_second"]
    )
    # Python alone takes 5 to 50 MB, with torch and RDKit more than 200 MB
    assert other["peak_bytes"] < 1e8 < ours["peak_bytes"] < 4e9
    screen.say_prediction(report)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith(" chemprop") for line in lines) == 2


COPY = "import shutil, sys; shutil.copy(*sys.argv[1:])"


def copier(folder, *_, **__):
    """A command that copies what it is to predict."""
    words = [sys.executable, "-c", COPY]
    new, one = (
        [*words, str(folder / f), str(folder / f"{f}.copy")] for f in ("new.csv", "one.csv")
    )
    return predicting.Command("copier", new, one)


def test_molecules_of_a_file_can_be_predicted(tmp_path, monkeypatch):
    monkeypatch.setattr(predicting, "line_up", lambda *a, **k: [copier(*a)])
    (tmp_path / "mine.csv").write_text("id,smiles\n1,CCO\n2,xyz\n3,C\n")
    report = predicting.measure_prediction(rounds=1, table=tmp_path / "mine.csv", device="cpu")
    assert report["settings"] == {"count": 3, "rounds": 1, "table": "mine.csv"}


def test_prediction_without_chemprop(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert predicting.chemprop(tmp_path, descriptors=False) == []


def test_scale(monkeypatch):
    monkeypatch.setattr(predicting, "molsam", copier)
    monkeypatch.setattr(predicting, "SMALLEST", 3)
    report = predicting.measure_scale(largest=40, device="cpu")
    assert [row["count"] for row in report["rows"]] == [3, 30]
    assert all(row["molecules_per_second"] > 0 for row in report["rows"])
    screen.say_scale(report)


def test_the_time_of_one_molecule_is_taken_off():
    python = [sys.executable, "-c"]
    command = predicting.Command(
        "sleeps", [*python, "import time; time.sleep(.6)"], [*python, "import time; time.sleep(.3)"]
    )
    command.start_round()
    command.take([0])
    (whole,), (after,) = command.seconds, command.after_start.seconds
    assert whole > 0.6
    assert after < whole - 0.29
    command.forget()
    assert command.seconds == command.after_start.seconds == command.peak_bytes == []


def test_memory_and_time_are_those_of_the_command():
    small, large = (
        predicting.launch([sys.executable, "-c", f"import time; b'x' * {n}; time.sleep(.2)"])
        for n in (1, 200_000_000)
    )
    assert large["peak_bytes"] - small["peak_bytes"] > 1.8e8
    assert small["seconds"] >= 0.2


def test_a_command_that_fails_says_so():
    with pytest.raises(RuntimeError, match="failed: no such model"):
        predicting.launch([sys.executable, "-c", "raise SystemExit('no such model')"])


def test_training():
    words = ("--rounds", 2, "--count", 40, "--epochs", 2, "--device", "cpu")
    result = molsam("bench", "train", *words, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    graphsam, adamw = report["rows"]
    assert (graphsam["optimizer"], adamw["optimizer"]) == ("GraphSAM", "AdamW")
    assert adamw["ratio_low"] == adamw["ratio_high"] == 1
    assert 0 < graphsam["ratio_low"] <= graphsam["ratio"] <= graphsam["ratio_high"]
    assert report["settings"]["model"]["width"] == tiny.SMALL["model.width"]


def test_tables_of_eighty_columns():
    result = molsam("bench", "train", "--rounds", 1, "--count", 40, "--epochs", 2)
    assert result.code == 0, result.err
    assert max(map(len, result.out.splitlines())) <= 80
    assert "GraphSAM" in result.out


def test_a_random_table_is_read_as_one():
    table = random_table(5, np.random.default_rng(0))
    assert len(table) == 5
    assert table.y.shape == (5, 1)
    assert table.take([1, 3]).smiles == (table.smiles[1], table.smiles[3])
