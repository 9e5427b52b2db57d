"""`molsam train` with what cannot be: one sentence on stderr, exit code 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from shell import assert_refused, molsam, train, write_table

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of sixty molecules."""
    return write_table(tmp_path_factory.mktemp("data") / "mine.csv")


BAD_TABLES = {
    "empty": ("", ["is empty"]),
    "header alone": ("smiles,y\n", ["no rows of data"]),
    "no smiles": ("name,y\nethanol,1\n", ["no column with a usual name for SMILES", "'name'"]),
    "constant": ("smiles,y\nC,2.5\nCC,2.5\nCCC,2.5\n", ["the label of y never differs"]),
    "one class": ("smiles,y\nC,1\nCC,1\nCCC,1\n", ["the label of y never differs"]),
    "three": ("smiles,y\nC,1\nCC,2\nCCC,3\n", ["never differs in the 1 training rows"]),
    "no labels": ("smiles,y\nC,\nCC,\nCCC,\n", ["y"]),
    "text": ("smiles,y\nC,1\nCC,high\nCCC,2\n", ["row 2, column 'y': 'high' is not a number"]),
    "infinite": ("smiles,y\nC,1\nCC,inf\nCCC,2\n", ["row 2, column 'y': 'inf' is not a number"]),
    "all bad": ("smiles,y\nxyz,1\n,2\n(,3\n", ["none of the 3 rows", "can be read", "row 1"]),
    "two": ("smiles,y\nC,1\nCC,2\n", ["2 molecules leave none to train"]),
    "two readable": ("smiles,y\nC,1\nCC,2\nxyz,3\n", ["2 molecules leave none to train"]),
    "ragged": ("smiles,y\nC,1\nCC,2,3,4\n", ["not well formed"]),
    "not text": ("smiles,y\nC,\udcff\n", ["is not UTF-8 text"]),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_table_is_refused(name, tmp_path):
    text, parts = BAD_TABLES[name]
    table = tmp_path / "bad.csv"
    table.write_text(text, encoding="utf-8", errors="surrogateescape")
    target = [] if name == "no smiles" else ["--target", "y"]
    result = train("--data", table, *target, "--out", tmp_path / "run")
    assert_refused(result, "bad.csv" if "two" not in name else "", *parts)
    assert len(result.err.splitlines()) <= 2  # the table in one line, where it could be read
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--data", "no.csv"], ["there is no file no.csv"]),
        (["--data", "mine.docx"], ["there is no file mine.docx"]),
        (["esoll"], ["'esoll' is neither a data set nor a file", "did you mean 'esol'"]),
        ([], ["name a data set, or your own table with --data FILE"]),
        (["esol", "--data", "mine.csv"], ["one of the two"]),
        (["--data", "MINE", "--recipe", "bbpb"], ["no recipe 'bbpb' (did you mean bbbp?)"]),
        (["--data", "MINE", "--recipe", "no.toml"], ["no recipe file no.toml"]),
        (["--data", "MINE", "--target", "pIC5"], ["no column 'pIC5'", "did you mean 'pIC50'"]),
        (["--data", "MINE", "--target", "smiles"], ["column 'smiles'", "is not a number"]),
        (["--data", "MINE", "--smiles", "SMILES"], ["no column 'SMILES'"]),
        (["--data", "MINE", "--smiles", "id"], ["none of the 60 rows", "can be read"]),
        (["--data", "MINE", "--set", "widht=8"], ["no field 'widht' (did you mean width?)"]),
        (["--data", "MINE", "--set", "name=sam"], ["'name' is ambiguous", "optimizer.name"]),
        (["--data", "MINE", "--set", "rho"], ["--set rho: write FIELD=VALUE"]),
        (["--data", "MINE", "--set", "width=eight"], ["model.width", "'eight'"]),
        (["--data", "MINE", "--set", "width=9"], ["not divisible by heads", "try width"]),
        (["--data", "MINE", "--set", "rho=-1"], ["optimizer.rho", "-1"]),
        (["--data", "MINE", "--set", "model.name=gcn"], ["no model 'gcn'"]),
        (["--data", "MINE", "--epochs", "0"], ["training.epochs"]),
        (["--data", "MINE", "--split", "temporal"], ["data.split", "'temporal'"]),
        (["--data", "MINE", "--split", "no.json"], ["there is no split file", "no.json"]),
        (["--data", "MINE", "--split", "column"], ["split_column go together"]),
        (["--data", "MINE", "--device", "abacus"], ["device 'abacus' cannot be used"]),
        (["--data", "MINE", "--set", "metric=roc_auc"], ["'roc_auc' does not serve regression"]),
        (["--data", "MINE", "--set", "loss=bce"], ["'bce' does not serve regression"]),
        (["--data", "MINE", "--out", "MINE"], ["is a file; name a folder (out)"]),
    ],
    ids=lambda words: " ".join(map(str, words)) if isinstance(words, list) else None,
)
def test_a_bad_choice_is_refused(words, parts, mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [str(mine) if word == "MINE" else word for word in words]
    target = [] if "--target" in words or "--data" not in words else ["--target", "pIC50"]
    assert_refused(train(*words, *target), *parts)
    assert not list(tmp_path.iterdir())


def test_a_target_of_the_recipe_that_the_file_lacks(mine, tmp_path):
    tiny.recipe(targets=("logP",)).save(tmp_path / "mine.toml")
    result = molsam("train", "--data", mine, "--recipe", tmp_path / "mine.toml")
    assert_refused(result, "mine.csv has no column 'logP'")


def test_a_split_that_leaves_a_part_empty(mine, tmp_path):
    (tmp_path / "s.json").write_text('{"train": [0, 1], "valid": [], "test": [2]}')
    result = train("--data", mine, "--target", "pIC50", "--split", tmp_path / "s.json")
    assert_refused(result, "leaves a part empty (train 2, valid 0, test 1)")


def test_a_folder_that_holds_something(mine, tmp_path):
    (tmp_path / "file").touch()
    result = train("--data", mine, "--target", "pIC50", "--out", tmp_path)
    assert_refused(result, f"{tmp_path} is not empty", "(out)", "(resume)")


def test_an_absurd_learning_rate_says_what_to_try(mine, tmp_path):
    result = train("--data", mine, "--target", "pIC50", "--set", "lr=1e20", "--out", tmp_path / "r")
    assert_refused(result, "loss is", "epoch 1", "try a lower optimizer.lr")


def test_a_folder_that_cannot_be_made(mine, tmp_path):
    (tmp_path / "file").touch()
    result = train("--data", mine, "--target", "pIC50", "--out", tmp_path / "file" / "run")
    assert_refused(result, str(tmp_path / "file"), "Not a directory")
