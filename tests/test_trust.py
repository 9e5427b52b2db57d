"""Nothing runs that was only loaded, and nothing is written but where it belongs."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import shell
import tiny
import trap

from molsam import Recipe, Run, cache, datasets, files, fit
from molsam.datasets import DataError
from molsam.files import SUMS, RunError, seal, without_formulas
from molsam.runs import CHECKPOINT
from molsam.spaces import Space
from molsam.tuning import Study

pytestmark = pytest.mark.usefixtures("undrawn")
FIELDS: dict[str, Any] = {"epochs": 1, "gaussian_process": True}
KINDS = ["csv", "tsv", "csv.gz", "parquet", "sdf", "sdf.gz", "smi"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with every file that one may have."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with tiny.undrawn():
        return fit(tiny.recipe(**FIELDS), tiny.regression(), out=folder)


@pytest.fixture
def copied(run, tmp_path) -> Path:
    return shutil.copytree(run.folder, tmp_path / "copy")


@pytest.fixture(params=trap.TRAPS)
def bomb(request, tmp_path):
    """`bomb(path)` puts a trap there; at the end none has sprung, and all would have."""
    mark, laid = tmp_path / "sprung", []

    def lay(path: Path) -> None:
        content = trap.TRAPS[request.param](mark)
        laid.append(content)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)

    yield lay
    assert not mark.exists()
    trap.spring(request.param, laid[0])
    assert mark.exists()


def use(folder: Path) -> None:
    """All that reads a file of a run."""
    opened = Run.load(folder)
    assert opened.scores
    assert files.read_json(folder / "split.json")
    opened.predict(["CCO"])


@pytest.mark.parametrize("sealed", ["as it was", "anew", "not"])
def test_no_file_of_a_run_executes(sealed, bomb, run, tmp_path):
    listed = [line.split()[1] for line in (run.folder / SUMS).read_text().splitlines()]
    for name in listed:
        folder = shutil.copytree(run.folder, tmp_path / "run")
        bomb(folder / name)
        if sealed == "not":
            (folder / SUMS).unlink()
        if sealed == "anew":
            seal(folder, listed)
        with pytest.raises(ValueError) as error:
            use(folder)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
        shutil.rmtree(folder)


def test_no_checkpoint_executes(bomb, copied, run):
    (copied / SUMS).unlink()
    bomb(copied / "member-0" / CHECKPOINT)
    with pytest.raises(RunError, match=CHECKPOINT):
        fit(run.recipe, tiny.regression(), out=copied, resume=True)


@pytest.mark.parametrize("kind", KINDS)
def test_no_table_executes(kind, bomb, tmp_path):
    table = tmp_path / f"table.{kind}"
    bomb(table)
    with pytest.raises(DataError, match=r"table\."):
        datasets.load(table)


def test_no_recipe_space_or_study_executes(bomb, tmp_path):
    path = tmp_path / "bomb.toml"
    bomb(path)
    for load in (Recipe.load, Space.load):
        with pytest.raises(ValueError, match=r"bomb\.toml"):
            load(path)
    bomb(tmp_path / "tune.json")
    with pytest.raises(ValueError, match=r"tune\.json"):
        Study.load(tmp_path)


def test_no_entry_of_the_cache_executes(bomb, monkeypatch, tmp_path):
    monkeypatch.setenv("MOLSAM_CACHE", str(tmp_path))
    name = cache.key("what was worked out")
    cache.folder().mkdir(parents=True)
    bomb(cache.folder() / name)
    assert cache.load(name) is None
    content = (cache.folder() / name).read_bytes()
    (cache.folder() / name).write_bytes(hashlib.sha256(content).digest() + content)
    assert cache.load(name) is None


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "member-0/../../outside"])
def test_checksums_reach_no_file_outside_the_run(name, copied):
    with open(copied / SUMS, "a") as sums:
        sums.write(f"{hashlib.sha256(b'').hexdigest()}  {name}\n")
    with pytest.raises(RunError, match="which is not in the run; do not trust it"):
        Run.load(copied)


@pytest.mark.parametrize("what", ["member-0", "scores.json"])
def test_a_link_in_a_run_is_not_written_through(what, copied, run, tmp_path):
    (copied / SUMS).unlink()
    outside = tmp_path / "outside"
    shutil.move(copied / what, outside)
    (copied / what).symlink_to(outside)
    before = {path: path.read_bytes() for path in (outside, *outside.rglob("*")) if path.is_file()}
    with pytest.raises(RunError, match=f"{what} is a link"):
        fit(run.recipe, tiny.regression(), out=copied, resume=True)
    assert before == {path: path.read_bytes() for path in before}


FORMULAS = ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")']


def test_formulas_are_written_as_texts_on_request(copied, tmp_path):
    table, written = tmp_path / "mine.csv", tmp_path / "out.csv"
    names = [*FORMULAS, "-1.5", "+3", "plain", "a=b"]
    pd.DataFrame({"=name": names, "smiles": "CCO"}).to_csv(table, index=False, quoting=1)
    assert shell.molsam("predict", copied, table, "-o", written).code == 0
    assert pd.read_csv(written, dtype=str)["=name"].tolist() == names
    asked = shell.molsam("predict", copied, table, "-o", written, "--for-spreadsheets")
    assert asked.code == 0
    found = pd.read_csv(written, dtype=str)
    assert found["'=name"].tolist() == [f"'{name}" for name in FORMULAS] + names[len(FORMULAS) :]
    assert found["smiles"].tolist() == ["CCO"] * len(names)


def test_values_that_are_no_texts_stay():
    frame = pd.DataFrame({"x": [-1.5, float("nan")], "y": [True, None], "z": ["", "-"]})
    expected = frame.assign(z=["", "'-"])
    pd.testing.assert_frame_equal(without_formulas(frame), expected)


def test_a_run_is_synced_with_the_folder_that_names_it(monkeypatch, tmp_path):
    synced: list[Path] = []
    monkeypatch.setattr(files, "_sync_folder", synced.append)
    files.write_atomic(tmp_path / "file", b"x")
    assert synced == [tmp_path]
