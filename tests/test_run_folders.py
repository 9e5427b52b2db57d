"""Folders of runs: whole, or refused in one sentence that names the file."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import tiny

from molsam import Run, fit
from molsam.files import SUMS, RunError, read_json, write_json
from molsam.runs import CERTAINTY, WEIGHTS

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished regression run."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return fit(tiny.recipe(epochs=1), tiny.regression(), out=out)


@pytest.fixture
def copied(run, tmp_path) -> Path:
    """A copy of the finished regression run."""
    return shutil.copytree(run.folder, tmp_path / "copy")


@pytest.fixture
def unsealed(copied) -> Path:
    """A copy that looks unfinished, so that no checksum stands before what is read."""
    (copied / SUMS).unlink()
    return copied


FILES = [
    "recipe.toml",
    "split.json",
    "scalers.json",
    "scores.json",
    "run.json",
    CERTAINTY,
    f"member-0/{WEIGHTS}",
]


def use(folder: Path) -> None:
    """Whatever a user would do with a run."""
    run = Run.load(folder)
    run.predict(["CCO"])


def one_sentence(error: pytest.ExceptionInfo[ValueError], name: str) -> None:
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name, copied):
    (copied / name).unlink()
    with pytest.raises(RunError, match="is missing; copy it again") as error:
        use(copied)
    one_sentence(error, Path(name).name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_cut_short_is_named(name, share, copied):
    data = (copied / name).read_bytes()
    (copied / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(RunError) as error:
        use(copied)
    one_sentence(error, name)


@pytest.mark.parametrize("name", [name for name in FILES if name != "run.json"])
def test_an_edited_file_is_named(name, copied):
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    with pytest.raises(RunError, match="was changed or cut short after training") as error:
        use(copied)
    one_sentence(error, name)


@pytest.mark.parametrize(
    "edit",
    [
        {"seed": "seven"},
        {"colour": "red"},
        {"kind": "ordinal"},
        {"tasks": ["activity", "another"], "units": ["", ""]},
        {"kind": "multiclass", "classes": ["a", "b", "c"]},
    ],
    ids=str,
)
def test_an_edited_run_json_is_named(edit, copied):
    write_json(copied / "run.json", read_json(copied / "run.json") | edit)
    with pytest.raises(RunError) as error:
        use(copied)
    one_sentence(error, "run.json")


@pytest.mark.parametrize("text", ["[]", "null", "3", '"run"', "{}"])
def test_json_of_another_shape_is_named(text, copied):
    (copied / "run.json").write_text(text)
    with pytest.raises(RunError) as error:
        use(copied)
    one_sentence(error, "run.json")


@pytest.mark.parametrize("text", ["[]", "{}", '{"target": {}, "descriptors": null}', "null"])
def test_scales_of_another_shape_are_named(text, unsealed):
    (unsealed / "scalers.json").write_text(text)
    with pytest.raises(RunError) as error:
        use(unsealed)
    one_sentence(error, "scalers.json")


def test_weights_of_another_model_are_named(unsealed, tmp_path):
    other = fit(tiny.recipe(epochs=1, depth=2), tiny.regression(), out=tmp_path / "other")
    shutil.copy(other.folder / "member-0" / WEIGHTS, unsealed / "member-0" / WEIGHTS)
    with pytest.raises(RunError, match="another model") as error:
        use(unsealed)
    one_sentence(error, WEIGHTS)


def test_a_missing_member_of_an_ensemble_is_named(tmp_path):
    run = fit(tiny.recipe(epochs=1, members=2), tiny.regression(), out=tmp_path / "run")
    shutil.rmtree(run.folder / "member-1")
    with pytest.raises(RunError, match="member-1"):
        use(run.folder)


def test_no_folder_and_no_run(tmp_path):
    with pytest.raises(RunError, match="there is no run folder"):
        Run.load(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"run\.json is missing"):
        Run.load(tmp_path)


def test_an_unfinished_run_loads_and_predicts(unsealed, run):
    (unsealed / "scores.json").unlink()
    loaded = Run.load(unsealed)
    assert not loaded.finished
    assert loaded.predict(tiny.DRUGS).equals(run.predict(tiny.DRUGS))
    with pytest.raises(RunError, match=r"scores\.json is missing"):
        _ = loaded.scores


def test_a_finished_run_lists_what_it_stands_on(run):
    sums = (line.split("  ") for line in (run.folder / SUMS).read_text().splitlines())
    found = {name: hashlib.sha256((run.folder / name).read_bytes()).hexdigest() for name in FILES}
    assert {name: digest for digest, name in sums} == found
    assert {"python", "molsam", "torch", "rdkit", "dgl", "dgllife"} <= set(run.info.versions)
    assert run.info.device.startswith("cpu (")
