"""The other commands: predict, evaluate, recipes, data, and the help of all."""

from __future__ import annotations

import gzip
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import typer
from rdkit import Chem
from shell import assert_refused, molsam, train, write_table

from molsam import Recipe, Run, cache, cli, datasets, fit, molecules, recipes, runs, screen
from molsam.files import RunError
from molsam.runs import WEIGHTS

SMILES = ["CCO", "c1ccccc1O", "xyz", "", "CC(=O)O", "CCO"]
BAD = [2, 3]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished regression run on a CSV with the target `pIC50`."""
    folder = tmp_path_factory.mktemp("run")
    with tiny.undrawn():
        table = write_table(folder / "mine.csv")
        recipe = tiny.recipe(epochs=1, targets=("pIC50",))
        return fit(recipe, table, out=folder / "run")


def read(path: Path, separator: str = ",") -> pd.DataFrame:
    """All cells as the text that they are."""
    return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)


# predict


NASTY = {
    "code": ["007", "1e5", "NA", "", "True", "-0"],
    "smiles": SMILES,
    "a, b": ['say "hi"', "two\nlines", " spaces ", "tab\there", "ünïcödé", "=1+1"],
    "value": ["1.10", "0.30000000000000004", "1E-300", "nan", "None", "1,5"],
}


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.csv.gz", "out.tsv.gz"])
def test_every_row_and_column_comes_back_as_it_was(name, run, tmp_path):
    given = pd.DataFrame(NASTY)
    given.to_csv(tmp_path / "in.csv", index=False)
    result = molsam("predict", run.folder, tmp_path / "in.csv", "-o", tmp_path / name)
    assert result.code == 0, result.err
    assert result.out == f"6 rows written to {tmp_path / name}\n"
    assert result.err == "2 rows got no prediction; the column 'error' says why\n"
    written = read(tmp_path / name, "\t" if "tsv" in name else ",")
    assert list(written) == [*NASTY, "pIC50", *tiny.sure("pIC50"), "error"]
    pd.testing.assert_frame_equal(written[list(NASTY)], given, check_dtype=False)
    assert written["pIC50"].tolist()[2:4] == ["", ""]
    assert written["error"].tolist() == ["", "", "not valid SMILES", "empty", "", ""]
    predicted = run.predict(SMILES)["pIC50"]
    fine = [i for i in range(6) if i not in BAD]
    assert np.allclose(written["pIC50"][fine].astype(float), predicted[fine], rtol=1e-5)
    assert sorted(os.listdir(tmp_path)) == sorted(["in.csv", name])


def test_a_gzipped_file_is_one(run, tmp_path):
    table = write_table(tmp_path / "in.csv", count=3)
    molsam("predict", run.folder, table, "-o", tmp_path / "out.csv.gz")
    with gzip.open(tmp_path / "out.csv.gz", "rt") as file:
        sure = ",".join(tiny.sure("pIC50"))
        assert file.readline() == f"id,smiles,pIC50,predicted pIC50,{sure},error\n"


def as_smi(path: Path) -> list[str]:
    path.write_text("CCO ethanol\nxyz\nc1ccccc1O phenol, carbolic acid\n")
    return ["smiles", "name"]


def as_sdf(path: Path) -> list[str]:
    texts = []
    for smiles, name in (("CCO", "ethanol"), ("C(C)(C)(C)(C)C", "odd"), ("Oc1ccccc1", "phenol")):
        mol = Chem.MolFromSmiles(smiles, sanitize=False)
        mol.SetProp("_Name", name)
        texts.append(f"{Chem.MolToMolBlock(mol, kekulize=False)}>  <batch>\n{name}-1\n\n$$$$\n")
    path.write_text("".join(texts))
    return ["smiles", "_Name", "batch"]


def as_parquet(path: Path) -> list[str]:
    frame = pd.DataFrame(
        {
            "smiles": ["CCO", None, "Oc1ccccc1"],
            "mass": [46.06904123456789, 1e-17, 94.0],
            "count": [1, 2, 30_000_000_000],
            "known": [True, False, True],
            "when": [date(2024, 2, 29)] * 3,
        }
    )
    frame.to_parquet(path)
    return frame.columns.tolist()


def as_tsv(path: Path) -> list[str]:
    path.write_text("structure\tn\nCCO\t1\nxyz\t2\nOc1ccccc1\t3\n")
    return ["structure", "n"]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("in.smi", as_smi),
        ("in.sdf", as_sdf),
        ("in.parquet", as_parquet),
        ("in.tsv", as_tsv),
    ],
)
def test_every_format_is_read(name, write, run, tmp_path):
    columns = write(tmp_path / name)
    result = molsam("predict", run.folder, tmp_path / name, "-o", tmp_path / "out.csv")
    assert result.code == 0, result.err
    assert "1 row got no prediction" in result.err
    written = read(tmp_path / "out.csv")
    assert list(written) == [*columns, "pIC50", *tiny.sure("pIC50"), "error"]
    assert [bool(text) for text in written["error"]] == [False, True, False]
    expected = run.predict(["CCO", "Oc1ccccc1"])["pIC50"]
    assert np.allclose(written["pIC50"][[0, 2]].astype(float), expected, rtol=1e-4)
    if name == "in.parquet":
        assert written["mass"].tolist() == ["46.06904123456789", "1e-17", "94.0"]
        assert written["count"].tolist() == ["1", "2", "30000000000"]
        assert written["known"].tolist() == ["True", "False", "True"]
        assert written["when"].tolist() == ["2024-02-29"] * 3
    if name == "in.smi":
        assert written["name"].tolist() == ["ethanol", "", "phenol, carbolic acid"]
    if name == "in.sdf":
        assert written["batch"].tolist() == ["ethanol-1", "odd-1", "phenol-1"]


def test_names_that_are_taken_get_a_word_before(run, tmp_path):
    taken = {"error": ["mine"] * 3, "predicted pIC50": ["mine"] * 3}
    table = write_table(tmp_path / "in.csv", count=3, **taken)
    result = molsam("predict", run.folder, table, "-o", tmp_path / "out.csv")
    assert result.code == 0, result.err
    written = read(tmp_path / "out.csv")
    assert list(written) == [
        "id", "smiles", "pIC50", "error", "predicted pIC50",
        "predicted predicted pIC50", *tiny.sure("pIC50"), "predicted error",
    ]  # fmt: skip
    assert (written["error"] == "mine").all()
    assert (written["predicted pIC50"] == "mine").all()
    assert written["predicted predicted pIC50"].astype(float).notna().all()


def test_the_column_of_smiles_may_be_named(run, tmp_path):
    table = tmp_path / "in.csv"
    table.write_text("what,product\nx,CCO\ny,CC\n")
    assert_refused(molsam("predict", run.folder, table), "no column with a usual name", "'product'")
    result = molsam("predict", run.folder, table, "--smiles", "product", "-o", tmp_path / "o.csv")
    assert result.code == 0
    assert (read(tmp_path / "o.csv")["error"] == "").all()


def test_a_file_may_be_written_over_itself(run, tmp_path):
    table = write_table(tmp_path / "in.csv", count=5)
    assert molsam("predict", run.folder, table, "-o", table).code == 0
    assert read(table).columns.tolist()[2:] == [
        "pIC50",
        "predicted pIC50",
        *tiny.sure("pIC50"),
        "error",
    ]


def test_rows_are_streamed(run, tmp_path, monkeypatch):
    table = write_table(tmp_path / "in.csv", count=50)
    molsam("predict", run.folder, table, "-o", tmp_path / "at once.csv")
    monkeypatch.setattr(runs, "CHUNK", 7)
    events = []
    iter_chunks, to_csv = runs.iter_chunks, pd.DataFrame.to_csv

    def reading(*given, **named):
        for chunk in iter_chunks(*given, **named):
            events.append("read")
            yield chunk

    def writing(*given, **named):
        events.append("write")
        return to_csv(*given, **named)

    monkeypatch.setattr(runs, "iter_chunks", reading)
    monkeypatch.setattr(pd.DataFrame, "to_csv", writing)
    result = molsam("predict", run.folder, table, "-o", tmp_path / "in pieces.csv")
    assert result.out.startswith("50 rows written")
    assert events == ["read"] + ["read", "write"] * 7 + ["write"]
    pieces, whole = (pd.read_csv(tmp_path / f"{n}.csv") for n in ("in pieces", "at once"))
    pd.testing.assert_frame_equal(pieces, whole, rtol=1e-4)


def test_a_screen_shows_the_first_rows(run, tmp_path, monkeypatch):
    table = write_table(tmp_path / "in.csv", count=60)
    result = molsam("predict", run.folder, table)
    assert result.code == 0
    lines = result.out.splitlines()
    heads = r"id +smiles +pIC50 +predicted pIC50 +similarity +in domain +error"
    assert re.fullmatch(heads, lines[0].strip())
    without = "without pIC50 low, pIC50 high for want of room; -o FILE writes all"
    assert (
        " ".join(line.strip() for line in lines[1 + screen.ROWS :])
        == f"the first 50 rows, {without}"
    )
    assert max(map(len, lines)) <= 80
    few = write_table(tmp_path / "few.csv", count=2)
    assert molsam("predict", run.folder, few).out.splitlines()[-1] == without
    monkeypatch.setattr(screen.tables.out, "width", 120)
    wide = molsam("predict", run.folder, few).out
    assert "-o FILE" not in wide
    assert "pIC50 low" in wide.splitlines()[0]


def test_a_file_cut_short_leaves_the_old_predictions(run, tmp_path, monkeypatch):
    table = write_table(tmp_path / "in.csv.gz", count=50)
    table.write_bytes(table.read_bytes()[:-20])
    (tmp_path / "out.csv").write_text("old")
    monkeypatch.setattr(runs, "CHUNK", 7)
    result = molsam("predict", run.folder, table, "-o", tmp_path / "out.csv")
    assert_refused(result, "in.csv.gz is not a whole gzip file")
    assert (tmp_path / "out.csv").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["in.csv.gz", "out.csv"]


@pytest.mark.parametrize(
    ("out", "parts"),
    [
        ("out.xlsx", ["out.xlsx: write to a .csv or .tsv file"]),
        ("out", ["out: write to a .csv or .tsv file"]),
        ("nowhere/out.csv", ["cannot write", "nowhere/out.csv: No such file or directory"]),
    ],
)
def test_a_bad_place_to_write_is_refused(out, parts, run, tmp_path):
    table = write_table(tmp_path / "in.csv", count=3)
    assert_refused(molsam("predict", run.folder, table, "-o", tmp_path / out), *parts)
    assert os.listdir(tmp_path) == ["in.csv"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (None, ["there is no file"]),
        ("", ["is empty"]),
        ("smiles\n", ["no rows of data"]),
        ("a,b\n1,2\n", ["no column with a usual name for SMILES"]),
    ],
)
@pytest.mark.parametrize("output", [True, False])
def test_a_bad_table_to_predict_is_refused(text, parts, output, run, tmp_path):
    table = tmp_path / "in.csv"
    if text is not None:
        table.write_text(text)
    where = ["-o", tmp_path / "out.csv"] if output else []
    assert_refused(molsam("predict", run.folder, table, *where), *parts)
    assert not (tmp_path / "out.csv").exists()


def missing(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def edited(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize("damage", [missing, cut, edited])
@pytest.mark.parametrize("name", ["run.json", "recipe.toml", "scalers.json", f"member-0/{WEIGHTS}"])
def test_a_damaged_run_is_refused(name, damage, command, run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    damage(folder / name)
    table = write_table(tmp_path / "in.csv", count=3)
    assert_refused(molsam(command, folder, table), Path(name).name)


def test_no_run_at_all(tmp_path):
    table = write_table(tmp_path / "in.csv", count=3)
    assert_refused(molsam("predict", tmp_path / "no", table), "there is no run folder")
    assert_refused(molsam("evaluate", tmp_path), "run.json is missing")


@pytest.mark.parametrize(
    "words",
    [["predict", "new.csv"], ["evaluate"], ["report"], ["explain", "C"]],
    ids=lambda w: w[0],
)
def test_a_folder_of_runs_is_no_run(words, tmp_path):
    folders = [tmp_path / f"seed-{seed}" for seed in range(2)]
    for folder in folders:
        folder.mkdir()
        (folder / "run.json").touch()
    told = f"is no run but holds 2; name one of {folders[0]}, {folders[1]}"
    command, *rest = words
    refused = molsam(command, tmp_path, *rest)
    assert_refused(refused, told)


def test_a_folder_of_many_runs_names_some(tmp_path):
    for seed in range(9):
        (tmp_path / f"task/seed-{seed}").mkdir(parents=True)
        (tmp_path / f"task/seed-{seed}/run.json").touch()
    with pytest.raises(RunError, match=r"holds 9; name one of .*seed-0, .*seed-4, \.\.\.$"):
        Run.load(tmp_path)


# evaluate


def test_a_run_is_evaluated_on_its_own_test_rows(run):
    result = molsam("evaluate", run.folder)
    assert result.code == 0
    for title, name in (("RMSE", "rmse"), ("MAE", "mae"), ("R²", "r2")):
        valid, test = (run.scores[part][name]["mean"] for part in ("valid", "test"))
        assert re.search(rf"{title} +{valid:.3f} +{test:.3f} ", result.out)


def test_a_run_is_evaluated_on_a_file(run, tmp_path):
    smiles = ["xyz", *tiny.regression().smiles[1:]]
    table = write_table(tmp_path / "new.csv", smiles=smiles, other="text")
    result = molsam("evaluate", run.folder, table)
    assert result.code == 0
    assert result.err == "1 row could not be read and took no part\n"
    measured = tiny.regression().y[1:, 0]
    error = run.predict(smiles[1:])["pIC50"] - measured
    assert f"{np.sqrt(np.mean(error**2)):.3f}" in result.out


def test_a_single_measured_molecule_will_do(run, tmp_path):
    (tmp_path / "new.csv").write_text("smiles,pIC50\nCCO,5.5\n")
    result = molsam("evaluate", run.folder, tmp_path / "new.csv")
    assert result.code == 0, result.err
    assert f"{abs(run.predict(['CCO'])['pIC50'][0] - 5.5):.3f}" in result.out


def test_a_file_without_the_target_is_refused(run, tmp_path):
    (tmp_path / "new.csv").write_text("smiles,pIC5\nC,1\nCC,2\n")
    result = molsam("evaluate", run.folder, tmp_path / "new.csv")
    assert_refused(result, "no column 'pIC50'; did you mean 'pIC5'?")


# recipes and data


def test_recipes_are_listed_and_shown():
    listed = molsam("recipes", "list")
    assert listed.code == 0
    assert max(map(len, listed.out.splitlines())) <= 80
    for name in recipes.names():
        assert re.search(rf"^ {name} .*{Recipe.load(name).model.name}", listed.out, re.MULTILINE)
        shown = molsam("recipes", "show", name)
        assert shown.out.strip() == recipes.find(name).read_text().strip()


def test_a_recipe_is_shown_in_full(tmp_path):
    result = molsam("recipes", "show", "esol", "--full")
    (tmp_path / "esol.toml").write_text(result.out)
    assert Recipe.load(tmp_path / "esol.toml") == Recipe.load("esol")
    assert "weight_decay" in result.out
    assert_refused(molsam("recipes", "show", "esoll"), "no recipe 'esoll' (did you mean esol?)")


def test_data_sets_are_listed_in_eighty_columns():
    result = molsam("data", "list")
    assert result.code == 0
    assert max(map(len, result.out.splitlines())) <= 80
    for name, task in datasets.TASKS.items():
        row = rf"^ {name}\s+{task.size:,}\s+{task.columns}\s+{task.metric}\s+{task.split}\s+\w+"
        assert re.search(row, result.out, re.MULTILINE)


def test_a_data_set_at_hand_is_not_downloaded(moleculenet, tmp_path, monkeypatch):
    monkeypatch.setattr("molsam.datasets.loading.fetch", lambda *_, **__: pytest.fail("downloads"))
    result = molsam("data", "fetch", "esol", "freesolv", "--data-dir", moleculenet)
    assert (result.code, result.err) == (0, "")
    assert result.out == "esol: 1,128 rows, content checked\nfreesolv: 642 rows, content checked\n"


def test_data_is_checked(tmp_path):
    table = tmp_path / "mine.csv"
    rows = ["smiles,y", "CCO,1", "OCC,2", "xyz,3", "[Na+].[Cl-],4", "c1ccccc1,", "C1=CC=CC=C1,7.5"]
    table.write_text("\n".join(rows) + "\n")
    result = molsam("data", "check", table)
    assert result.code == 0
    lines = [line.strip() for line in result.out.replace(str(table), "TABLE").splitlines()]
    assert lines[0] == "TABLE: 6 rows, 2 to 6 heavy atoms"
    assert lines[1] == "unreadable: 1 row"
    assert lines[2].startswith("row 3: cannot use 'xyz'")
    assert lines[3] == "salts and mixtures: 1 row (row 4)"
    assert lines[4:7] == ["the same molecule: 2 groups of rows", "rows 1, 2", "rows 5, 6"]
    assert lines[7:9] == ["of these with other labels: 1 group of rows", "rows 1, 2"]
    assert lines[-1].split() == ["y", "5", "1", "1", "7.5"]


def test_a_column_that_a_text_keeps_from_being_a_target_is_named(tmp_path):
    table = write_table(tmp_path / "mine.csv", 20, weight=[">5", "", *map(str, range(18))])
    named = "no target, for a text is among the numbers: 'weight' (row 1: '>5')"
    assert named in molsam("data", "check", table).out.splitlines()
    assert named in train("--data", table, "--out", tmp_path / "run").err.splitlines()
    alone = pd.read_csv(table)[["smiles", "weight"]]
    alone.to_csv(table, index=False)
    lines = molsam("data", "check", table).out.splitlines()
    assert lines[-2:] == [named, "no column of numbers to learn from"]
    assert_refused(train("--data", table), "no column of numbers alone", "'weight' (row 1: '>5')")
    asked = molsam("data", "check", table, "--target", "smiles", "--smiles", "smiles")
    assert_refused(asked, "column 'smiles'", "is not a number")


def test_data_of_classes_is_counted(tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("smiles,phase\nC,gas\nCC,gas\nCCCCCC,liquid\nCCCCC,liquid\nO,\n")
    result = molsam("data", "check", table, "--target", "phase")
    assert result.code == 0
    assert re.search(r"phase\s+4\s+1\s+0\s+1\s+gas: 2, liquid: 2", result.out)


def test_a_known_data_set_is_checked(moleculenet):
    result = molsam("data", "check", "freesolv", "--data-dir", moleculenet)
    assert "freesolv: 642 rows, 1 to 24 heavy atoms" in result.out
    assert "unreadable: 0 rows" in result.out


def test_a_file_that_is_not_there_cannot_be_checked(tmp_path):
    assert_refused(molsam("data", "check", tmp_path / "no.csv"), "there is no file")


def test_an_error_of_the_system_is_told_without_its_number(run, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError(5, "Input/output error", "mine.csv")

    monkeypatch.setattr(datasets, "read_table", broken)
    result = molsam("evaluate", run.folder, tmp_path / "mine.csv")
    assert_refused(result, "molsam: mine.csv: Input/output error")


def test_brackets_in_a_message_are_not_markup(run, tmp_path):
    result = molsam("predict", run.folder, tmp_path / "a[bold]b.csv")
    assert_refused(result, "a[bold]b.csv")


# cache


def test_the_cache_is_shown_and_cleared(tmp_path, monkeypatch):
    monkeypatch.setenv("MOLSAM_CACHE", str(tmp_path / "a [bold] place"))
    assert molsam("cache").out.strip().endswith("a [bold] place/made: 0 entries, 0.0 MB")
    cache.save("one", {"x": np.zeros(300_000, dtype=np.float32)})
    cache.save("two", {"x": np.zeros(300_000, dtype=np.float32)})
    assert molsam("cache").out.strip().endswith("made: 2 entries, 2.4 MB")
    assert molsam("cache", "clear").out.strip() == "2 entries removed, 2.4 MB"
    assert molsam("cache").out.strip().endswith("made: 0 entries, 0.0 MB")


# help


def commands() -> dict[str, Any]:
    """Every command by its words."""
    found: dict[str, Any] = {"": typer.main.get_command(cli.app)}
    for name, command in found[""].commands.items():
        found[name] = command
        found |= {f"{name} {n}": c for n, c in getattr(command, "commands", {}).items()}
    return found


@pytest.mark.parametrize("name", commands())
def test_help_is_readable_in_eighty_columns(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    command = commands()[name]
    result = molsam(*name.split(), "--help")
    assert result.code == 0
    assert "\x1b" not in result.out
    assert max(map(len, result.out.splitlines())) <= 80
    assert (command.help or "").split(":")[0].split(".")[0][:40] in result.out
    for parameter in command.params:
        for option in parameter.opts:
            assert option.lower() in result.out.lower()
    for other in getattr(command, "commands", {}):
        assert other in result.out


def test_without_a_command_the_help_is_shown():
    result = molsam()
    assert "Usage: molsam" in result.out + result.err
    assert "train" in result.out + result.err


@pytest.mark.parametrize("words", [["trian"], ["train", "--epoch", "many"], ["predict"]])
def test_a_command_line_that_cannot_be_read_ends_with_2(words):
    result = molsam(*words)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert "Usage: molsam" in result.err


def test_the_bundled_molecules_of_the_readme_can_be_predicted(run):
    table = Path(__file__).parents[1] / "docs" / "molecules.csv"
    result = molsam("predict", run.folder, table)
    assert result.code == 0
    assert molecules.parse_many(datasets.read_frame(table).frame["smiles"]).index.size


def test_the_settings_of_a_run_are_plain_text(run):
    assert json.loads((run.folder / "run.json").read_text())["tasks"] == ["pIC50"]
    assert Recipe.load(run.folder / "recipe.toml") == run.recipe


FAULTS = """
import resource
from molsam import cli

cli._keep_freed_memory()
for round in range(12):
    if round == 2:  # glibc has learned what it learns by itself
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    parts = [bytearray(30 << 20) for _ in range(3)]
    del parts
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is another")
@pytest.mark.parametrize(("given", "kept"), [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "1"}, False)])
def test_freed_memory_is_kept_unless_the_environment_says_otherwise(given, kept):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC", "GLIBC"))}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(
        command, env=inherited | given, capture_output=True, text=True, check=True
    )
    assert (int(done.stdout) < 1000) == kept  # 23,000 pages a round
