"""The registry against the published files, where tasks are found, and what a check reports."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from molsam import datasets
from molsam.datasets import TASKS, DataError, load, read_table

AT_HAND = {
    "esol": 1128,
    "freesolv": 642,
    "lipophilicity": 4200,
    "bbbp": 2050,
    "bace": 1513,
    "clintox": 1484,
    "sider": 1427,
    "tox21": 7831,
    "hiv": 41913,
    "muv": 93127,
}
NOT_AT_HAND = {"toxcast", "pcba", "qm7", "qm8", "qm9"}


def write(folder: Path, text: str, name: str = "mine.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def esol_path(moleculenet: Path) -> Path:
    return moleculenet / "esol.csv"


# --- the registry -------------------------------------------------------------------------------


def test_the_registry_is_whole() -> None:
    assert set(TASKS) == {"bundled"} | set(AT_HAND) | NOT_AT_HAND
    for name, task in TASKS.items():
        assert task.name == name
        assert len(task.targets) in (0, task.columns)
        assert len(task.units) in (0, task.columns)
        assert (task.metric in ("rmse", "mae")) == (task.kind == "regression")
        assert task.citation
        assert task.licence
        assert task.url is None or task.url.startswith("https://")
    assert {name for name, task in TASKS.items() if not any(task.editions.values())} == NOT_AT_HAND


@pytest.mark.parametrize("name", AT_HAND)
def test_published_files_hold_what_the_registry_says(moleculenet: Path, name: str) -> None:
    table = load(name, data_dir=moleculenet)
    task = TASKS[name]
    assert len(table) == AT_HAND[name]
    assert table.tasks == task.targets
    assert table.kind == task.kind
    assert table.digest() == task.editions[len(table)]
    assert table.source == name
    assert len(table.units) == task.columns
    assert not np.isinf(table.y).any()


def test_bundled_molecules_need_no_download() -> None:
    table = load("bundled")
    assert len(table) == 1017
    assert (table.y.min(), table.y.max()) == (np.float32(4.27), np.float32(9.22))
    assert table.tasks == ("activity",)
    assert table.digest() == TASKS["bundled"].digest
    assert len(set(table.smiles)) == 1017


def miniature(name: str, frame: pd.DataFrame, columns: int) -> datasets.Task:
    return replace(TASKS[name], editions={len(frame): None}, columns=columns)


def test_a_task_without_a_digest_is_known_by_rows_and_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"smiles": ["C", "N"] * 100, "A_up": [0, 1] * 100, "B_down": [1, "", 0, ""] * 50}
    )
    task = miniature("toxcast", frame, columns=2)
    path = tmp_path / "toxcast_data.csv.gz"
    frame.to_csv(path, index=False)
    assert task.read(path).tasks == ("A_up", "B_down")
    frame[:198].to_csv(path, index=False)
    assert len(task.read(path)) == 198
    frame[:197].to_csv(path, index=False)
    with pytest.raises(
        DataError, match=r"toxcast_data\.csv\.gz is not the data set toxcast: 197 rows"
    ):
        task.read(path)
    frame.drop(columns="A_up").to_csv(path, index=False)
    with pytest.raises(DataError, match="200 rows and 1 targets, not 200 and 2"):
        task.read(path)


def test_qm8_heads_two_groups_of_columns_alike(tmp_path: Path) -> None:
    names = [name.removesuffix(".1") for name in TASKS["qm8"].targets]
    assert len(set(names)) == 12
    values = np.random.default_rng(0).random((5, 16)).round(4)
    rows = [["C" * (i + 1), *map(str, row)] for i, row in enumerate(values)]
    text = "\n".join(",".join(row) for row in [["smiles", *names], *rows])
    table = replace(TASKS["qm8"], editions={5: None}).read(write(tmp_path, text, "qm8.csv"))
    np.testing.assert_array_equal(table.y, values.astype(np.float32))
    assert table.tasks[8] == "E1-PBE0.1"
    assert table.units[:4] == ("hartree", "hartree", "", "")


# --- finding and loading ------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and no $MOLSAM_DATA."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    monkeypatch.delenv("MOLSAM_DATA", raising=False)
    folder = datasets.cache_folder()
    folder.mkdir(parents=True)
    assert folder.is_relative_to(tmp_path)
    return folder


@pytest.mark.parametrize("name", ["esol.csv", "delaney-processed.csv"])
@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("place", ["data_dir", "environment", "cache"])
def test_tasks_are_found_under_either_name_in_every_place(
    moleculenet: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    gz: bool,
    place: str,
) -> None:
    folder = cache if place == "cache" else tmp_path / "data"
    folder.mkdir(exist_ok=True)
    content = esol_path(moleculenet).read_bytes()
    path = folder / (name + ".gz" * gz)
    path.write_bytes(gzip.compress(content) if gz else content)
    if place == "environment":
        monkeypatch.setenv("MOLSAM_DATA", str(folder))
    data_dir = folder if place == "data_dir" else None
    assert datasets.find(TASKS["esol"], data_dir) == path
    assert len(load("ESOL", data_dir=data_dir)) == 1128


def test_nearer_places_come_first(cache: Path, tmp_path: Path, monkeypatch) -> None:
    folders = [tmp_path / "given", tmp_path / "environment", cache]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / "esol.csv").touch()
    monkeypatch.setenv("MOLSAM_DATA", str(folders[1]))
    assert datasets.find(TASKS["esol"], folders[0]) == folders[0] / "esol.csv"
    assert datasets.find(TASKS["esol"]) == folders[1] / "esol.csv"
    monkeypatch.delenv("MOLSAM_DATA")
    assert datasets.find(TASKS["esol"]) == folders[2] / "esol.csv"
    (cache / "esol.csv").unlink()
    assert datasets.find(TASKS["esol"]) is None


@pytest.mark.parametrize("edit", ["label", "rows"])
def test_an_altered_file_is_refused_by_name(
    moleculenet: Path, cache: Path, tmp_path: Path, edit: str
) -> None:
    frame = pd.read_csv(esol_path(moleculenet), dtype=str)
    if edit == "label":
        frame.loc[500, TASKS["esol"].targets[0]] = "-9.99"
    else:
        frame = frame[:-1]
    frame.to_csv(tmp_path / "esol.csv", index=False)
    with pytest.raises(DataError, match=r"esol\.csv is not the data set esol") as caught:
        load("esol", data_dir=tmp_path)
    assert TASKS["esol"].url in str(caught.value)


def test_a_missing_folder_is_not_passed_over(cache: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*nowhere, which data_dir names"):
        load("esol", data_dir=tmp_path / "nowhere")
    monkeypatch.setenv("MOLSAM_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"which \$MOLSAM_DATA names"):
        load("esol")


def test_columns_of_a_task_can_be_chosen(moleculenet: Path) -> None:
    table = load("tox21", data_dir=moleculenet, targets=["SR-p53", "NR-AR"])
    whole = load("tox21", data_dir=moleculenet)
    assert table.tasks == ("SR-p53", "NR-AR")
    np.testing.assert_array_equal(table.y, whole.y[:, [11, 0]])
    computed = load("freesolv", data_dir=moleculenet, targets=["calc", "expt"])
    assert computed.units == ("", "kcal/mol")
    assert computed.source == "freesolv"
    folds = load("hiv", data_dir=moleculenet, split_column="activity")
    assert set(folds.folds or ()) == {"CA", "CI", "CM"}
    assert folds.digest() == load("hiv", data_dir=moleculenet).digest()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("esoll", r"'esoll' is neither a data set nor a file; did you mean 'esol'.*'qm9'"),
        ("zzz", r"'zzz' is neither a data set nor a file; there is 'bundled', 'esol'.*'qm9'"),
        ("esol.tsv", r"there is no file esol\.tsv"),
        ("here/esol", "there is no file here/esol"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(name)


def test_loading_asks_for_labels(tmp_path: Path) -> None:
    path = write(tmp_path, "smiles,remark\nC,good\nN,bad\n")
    assert read_table(path).tasks == ()
    with pytest.raises(DataError, match="no column of numbers; name the columns to predict"):
        load(path)


def test_a_data_frame_is_loaded_as_its_file(tmp_path: Path) -> None:
    path = write(tmp_path, "smiles,y,z [nM]\nC,1.5,2\nN,,3\nnonsense,1,4\n")
    frame = pd.read_csv(path)
    assert load(frame).digest() == load(path).digest()
    assert load(frame).units == ("", "nM")
    frame[7] = 1.0
    assert load(frame).tasks == ("y", "z [nM]")
    assert load(frame, targets=["y"]).tasks == ("y",)
    with pytest.raises(DataError, match="frame has no column 'Y'; did you mean 'y'"):
        load(frame, targets=["Y"])


# --- checks -------------------------------------------------------------------------------------


def test_a_check_finds_rows_that_salts_and_charges_make_one_molecule(tmp_path: Path) -> None:
    text = """smiles,y
CC(=O)O,1
CC(=O)[O-].[Na+],1
[O-]C(C)=O,1
CC(=O)OC,1
OC(C)=O,1
C[N+](=O)[O-],2
C[N+](=O)[O-].C,2
[NH3+]CC([O-])=O,3
[Cl-].[Na+],4
"""
    report = datasets.check(read_table(write(tmp_path, text)))
    assert report.duplicates == ((1, 5),)
    assert report.related == ((1, 2, 3, 5), (6, 7))


def test_a_check_reports_what_spoils_training(tmp_path: Path) -> None:
    text = """smiles,y,z
OCC,1.5,1
nonsense,2,0
C(O)C,2.5,
[Na+].[Cl-],,0
c1ccccc1,4,1
CCO,1.5,1
C1=CC=CC=C1,4,1
,7,0
"""
    report = datasets.check(read_table(write(tmp_path, text)))
    assert report.rows == 8
    assert [error.row for error in report.unreadable] == [2, 8]
    assert "nonsense" in str(report.unreadable[0])
    assert report.duplicates == ((1, 3, 6), (5, 7))
    assert report.conflicts == ((1, 3, 6),)
    assert report.related == ()
    assert report.salts == (4,)
    assert report.atoms == (2, 6)
    y, z = report.labels
    assert (y.task, y.known, y.missing, y.low, y.high, y.counts) == ("y", 7, 1, 1.5, 7, {})
    assert (z.known, z.missing, z.counts) == (7, 1, {})


def test_a_check_counts_classes(moleculenet: Path) -> None:
    expected = pd.read_csv(moleculenet / "bbbp.csv", nrows=200)["p_np"].value_counts()
    report = datasets.check(load("bbbp", data_dir=moleculenet).take(slice(200)))
    [labels] = report.labels
    assert labels.counts == {"0": expected[0], "1": expected[1]}
    assert (labels.known, labels.missing) == (200, 0)
    frame = pd.DataFrame({"smiles": "C", "y": ["a", "b", "b", ""]})
    [labels] = datasets.check(
        datasets.table_from_frame(frame, targets="y", kind="multiclass")
    ).labels
    assert labels.counts == {"a": 1, "b": 2}


def test_a_check_of_nothing_readable_still_reports() -> None:
    table = datasets.table_from_frame(pd.DataFrame({"smiles": ["?", ""]}))
    report = datasets.check(table)
    assert len(report.unreadable) == 2
    assert report.atoms == (0, 0)
    assert report.labels == ()
