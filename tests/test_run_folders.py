"""Folders of runs: whole, or refused in one sentence that names the file."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import torch

from molsam import Recipe, Run, files, fit, report
from molsam.files import SUMS, RunError, load_state, read_json, save_state, write_json
from molsam.recipes import RecipeError
from molsam.runs import CERTAINTY, PROCESS, RECORDS, WEIGHTS

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


# What tests/fuzz.py found, under a seal made anew


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with all that a run may have."""
    given = {"data.descriptors": True, "data.fingerprints": True, "gaussian_process": True}
    out = tmp_path_factory.mktemp("runs") / "run"
    return fit(tiny.recipe(epochs=1, **given), tiny.regression(40), out=out)


def without(*keys: str) -> Callable[[Any], None]:
    def change(tree: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        del tree[keys[-1]]

    return change


def put(value: Any, *keys: str) -> Callable[[Any], None]:
    def change(tree: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (f"member-0/{WEIGHTS}", without("model")),
        (f"member-0/{WEIGHTS}", put({7: torch.ones(1)}, "model")),
        (CERTAINTY, without("temperature")),
        (CERTAINTY, without("counts", "rows")),
        (CERTAINTY, lambda state: state["counts"]["columns"].add_(10**9)),
        (CERTAINTY, put(torch.ones(7), "spread")),
        (CERTAINTY, put("wide", "edge")),
        (PROCESS, without("scaler")),
        (PROCESS, without("scaler", "center")),
        (PROCESS, put(None, "share")),
        (PROCESS, put(1, "more")),
        (PROCESS, put(torch.ones(5), "mix")),
        ("scalers.json", without("descriptors", "scale")),
        ("scalers.json", put(None, "descriptors")),
        ("scalers.json", put([1.0] * 3, "target", "scale")),
        ("scalers.json", lambda tree: tree["descriptors"]["center"].pop()),
        ("run.json", put([], "units")),
        ("run.json", put(["a", "b"], "classes")),
    ],
)
def test_what_does_not_fit_together_is_named(process, tmp_path, name, change):
    folder = shutil.copytree(process.folder, tmp_path / "copy")
    path = folder / name
    tree = load_state(path) if path.suffix == ".safetensors" else read_json(path)
    change(tree)
    (save_state if path.suffix == ".safetensors" else write_json)(path, tree)
    files.seal(folder, [*RECORDS, f"member-0/{WEIGHTS}", CERTAINTY, PROCESS])
    with pytest.raises(RunError) as error:
        use(folder)
    one_sentence(error, name)


def test_a_recipe_that_asks_for_any_size_is_refused_before_it_has_it(copied):
    recipe = Recipe.load(copied / "recipe.toml").change({"model.width": 2**20})
    (copied / SUMS).unlink()
    recipe.save(copied / "recipe.toml")
    with pytest.raises(RunError, match="another model") as error:
        use(copied)
    one_sentence(error, f"member-0/{WEIGHTS}")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("predictions.csv", b"row\xff"),
        ("predictions.csv", b"row\n1\n"),
        ("member-0/history.csv", b"epoch\xff"),
        ("member-0/history.csv", b"epoch\n1\n"),
    ],
)
def test_tables_that_no_seal_covers_are_named_by_the_page(copied, name, data):
    (copied / name).write_bytes(data)
    with pytest.raises(RunError) as error:
        report.page(Run.load(copied))
    one_sentence(error, name)


@pytest.mark.parametrize("value", ["x", "nan", "inf", ""])
def test_predictions_of_no_molecule_or_no_number_are_named_by_the_page(copied, value):
    path = copied / "predictions.csv"
    whole = pd.read_csv(path, dtype=str)
    for column in ("smiles", "row", "predicted activity", "similarity"):
        whole.assign(**{column: [value, *whole[column][1:]]}).to_csv(path, index=False)
        with pytest.raises(RunError) as error:
            report.page(Run.load(copied))
        one_sentence(error, "predictions.csv")


def test_a_recipe_of_endless_layers_is_refused(copied):
    (copied / SUMS).unlink()
    text = (copied / "recipe.toml").read_text()
    (copied / "recipe.toml").write_text(text.replace("depth = 1\n", f"depth = {2**70}\n"))
    with pytest.raises(RecipeError, match=r"model\.depth.*1000") as error:
        use(copied)
    assert "recipe.toml" in str(error.value)


@pytest.mark.parametrize(
    "change", [without("valid"), put([], "valid", "rmse"), put({"x": {"mean": 1.0}}, "valid")]
)
def test_scores_of_something_else_are_named_by_the_page(copied, change):
    scores = read_json(copied / "scores.json")
    change(scores)
    write_json(copied / "scores.json", scores)
    files.seal(copied, [*RECORDS, f"member-0/{WEIGHTS}", CERTAINTY])
    with pytest.raises(RunError) as error:
        report.page(Run.load(copied))
    one_sentence(error, "scores.json")


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000])
def test_json_beyond_the_parser_is_named(copied, text):
    (copied / SUMS).unlink()
    (copied / "scalers.json").write_text(text)
    with pytest.raises(RunError) as error:
        use(copied)
    one_sentence(error, "scalers.json")


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
