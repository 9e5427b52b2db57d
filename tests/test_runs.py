"""Runs: a prediction for whatever is asked, wherever it is asked, and scores on new data."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import molsam
from molsam import Run, datasets, fit, reading, runs
from molsam.check import assert_spelling_invariant
from molsam.datasets import DataError
from molsam.environment import pick_device
from molsam.files import SUMS, RunError, read_json, write_json

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Finished runs of every kind of target, both models, and an ensemble."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "regression": fit(tiny.recipe(epochs=1), tiny.regression(), out=folder / "r"),
        "binary": fit(tiny.recipe(epochs=1), tiny.multilabel(), out=folder / "b"),
        "multiclass": fit(
            tiny.recipe(epochs=1, members=2), tiny.multiclass(), out=folder / "m"
        ),
        "graph_transformer": fit(
            tiny.recipe(
                epochs=1, descriptors=True, fingerprints=True, featurizer="pagtn",
                **{"model.name": "graph_transformer"},
            ),
            tiny.regression(),
            out=folder / "g",
        ),
        "gaussian_process": fit(
            tiny.recipe(epochs=1, gaussian_process=True), tiny.regression(), out=folder / "p"
        ),
        "gru": fit(tiny.recipe(epochs=1, readout="gru"), tiny.regression(), out=folder / "u"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(trained) -> Run:
    return trained["regression"]


@pytest.fixture
def copied(run, tmp_path) -> Path:
    """A copy of the finished regression run."""
    return shutil.copytree(run.folder, tmp_path / "copy")


# What goes in comes out, in order


def test_every_input_has_its_row_and_bad_ones_say_why(run):
    asked = [
        "CCO",
        None,
        "",
        float("nan"),
        "xyz",
        "C(",
        "CCO",
        " c1ccccc1 ",
        "[H][H]",
        "C(C)(C)(C)(C)C",
    ]
    frame = run.predict(asked)
    assert list(frame) == ["smiles", "activity", *tiny.sure("activity"), "error"]
    assert len(frame) == len(asked)
    fine = [0, 6, 7, 8]
    for position, (text, value, *sure, error) in enumerate(frame.itertuples(index=False)):
        wanted = asked[position]
        assert text == wanted or (pd.isna(text) and pd.isna(wanted))
        assert bool(error) == (position not in fine)
        assert math.isfinite(value) == (position in fine)
        assert pd.notna(sure).all() == pd.notna(sure).any() == (position in fine)
    errors = frame["error"]
    assert errors[1] == errors[3] == "missing"
    assert errors[2] == "empty"
    assert errors[4] == errors[5] == "not valid SMILES"
    assert "valence" in errors[9]
    assert frame["activity"][0] == frame["activity"][6]


@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        np.array,
        pd.Series,
        lambda s: pd.Series(s, index=range(100, 100 + len(s)), dtype=object),
        iter,
        lambda s: (text for text in s),
        dict.fromkeys,
    ],
    ids=["list", "tuple", "array", "series", "odd index", "iterator", "generator", "keys"],
)
def test_any_iterable_of_texts_will_do(make, run):
    expected = run.predict(tiny.DRUGS)
    pd.testing.assert_frame_equal(run.predict(make(tiny.DRUGS)), expected, check_exact=True)


def test_a_single_text_is_refused_with_advice(run):
    with pytest.raises(TypeError, match=r"write \[smiles\]"):
        run.predict("CCO")


def test_nothing_in_nothing_out(trained):
    for run in trained.values():
        frame = run.predict([])
        assert len(frame) == 0
        assert list(frame) == list(run.predict(["CCO"]))


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_all_bad_is_no_error(kind, trained):
    frame = trained[kind].predict(["xyz", None])
    assert frame["error"].tolist() == ["not valid SMILES", "missing"]
    ours = frame.drop(columns=["smiles", "error"])
    assert ours.isna().all().all()
    assert list(frame) == list(trained[kind].predict(["CCO"]))


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_chunks_do_not_show(kind, trained, monkeypatch):
    asked = [*tiny.DRUGS, None, *tiny.regression().smiles[:20], "xyz", *tiny.DRUGS]
    whole = trained[kind].predict(asked)
    monkeypatch.setattr(runs, "CHUNK", 3)
    pieces = trained[kind].predict(text for text in asked)
    pd.testing.assert_frame_equal(whole, pieces, check_dtype=False, rtol=1e-5)


def test_a_stream_is_read_one_chunk_ahead(run, monkeypatch):
    monkeypatch.setattr(runs, "CHUNK", 4)
    read = []
    frames = run.predict_chunks(read.append(i) or "C" for i in range(14))
    assert not read
    seen = [(len(frame), len(read)) for frame in frames]
    assert seen == [(4, 8), (4, 12), (4, 14), (2, 14)]


def test_the_next_chunk_is_read_while_the_model_works(run, monkeypatch):
    monkeypatch.setattr(runs, "CHUNK", 4)
    events = []
    begin, infer = runs.begin_reading, runs.infer
    monkeypatch.setattr(
        runs, "begin_reading", lambda *a, **k: (events.append("+"), begin(*a, **k))[1]
    )
    monkeypatch.setattr(runs, "infer", lambda *a, **k: (events.append("model"), infer(*a, **k))[1])
    run.predict(["C"] * 10)
    assert events == ["+", "+", "model", "+", "model", "model"]


@pytest.mark.parametrize(("total", "expected"), [(None, [1, 1, 9, 9]), (14, [9, 9, 9, 9])])
def test_processes_are_started_when_there_is_enough_to_do(total, expected, run, monkeypatch):
    monkeypatch.setattr(runs, "CHUNK", 4)
    monkeypatch.setattr(reading, "WORTH", {True: 10, False: 10})
    monkeypatch.setattr(reading.joblib, "cpu_count", lambda: 9)
    asked = []

    begin = runs.begin_reading

    def recording(smiles, choices, *, processes, **how):
        asked.append(processes)
        return begin(smiles, choices, processes=1, **how)

    monkeypatch.setattr(runs, "begin_reading", recording)
    run.predict(["C"] * total if total else (text for text in ["C"] * 14))
    assert asked == expected


@pytest.mark.filterwarnings("ignore:.*tasks which were still being processed")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_stream_may_be_left_early(processes, run, monkeypatch):
    monkeypatch.setattr(runs, "CHUNK", 300)
    frames = run.predict_chunks(itertools.cycle(tiny.DRUGS), processes=processes)
    first = next(frames)
    frames.close()
    assert len(first) == 300
    assert np.isfinite(run.predict(tiny.DRUGS, processes=processes)["activity"]).all()


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "smi", "parquet"])
@pytest.mark.parametrize("given", [str, Path])
def test_a_file_is_predicted_with_its_columns(ending, given, run, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "CHUNK", 3)
    path = tmp_path / f"new.{ending}"
    frame = pd.DataFrame(
        {"smiles": [*tiny.DRUGS, "xyz"], "name": list(map(str, range(len(tiny.DRUGS) + 1)))}
    )
    if ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="," if "csv" in ending else "\t")
    found, expected = run.predict(given(path)), run.predict(frame["smiles"])
    assert list(found) == ["smiles", "name", *expected.columns[1:]]
    assert found["name"].tolist() == frame["name"].tolist()
    pd.testing.assert_frame_equal(
        found.drop(columns="name"), expected, check_exact=True, check_dtype=False
    )


def test_the_column_of_smiles_may_be_named(run, tmp_path):
    path = tmp_path / "new.csv"
    pd.DataFrame({"product": tiny.DRUGS, "error": "mine"}).to_csv(path, index=False)
    found = run.predict(path, smiles="product")
    sure = tiny.sure("activity")
    assert list(found) == ["product", "error", "activity", *sure, "predicted error"]
    expected = run.predict(tiny.DRUGS)["activity"]
    pd.testing.assert_series_equal(found["activity"], expected, check_exact=True)


# What a prediction depends on, and what not


def test_twice_the_same_bit_for_bit(trained):
    for run in trained.values():
        a, b = run.predict(tiny.DRUGS), run.predict(tiny.DRUGS)
        pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_company_and_order_do_not_matter(trained):
    others = list(tiny.regression().smiles[:30])
    for run in trained.values():
        (column, *_) = [name for name in run.predict([]) if name not in ("smiles", "error")]
        if run.info.kind == "multiclass":
            column = f"{column} p(low)"
        alone = [run.predict([text])[column][0] for text in tiny.DRUGS]
        together = run.predict(others + tiny.DRUGS + others)[column][30:35]
        backwards = run.predict(tiny.DRUGS[::-1])[column][::-1]
        assert np.allclose(alone, together, atol=1e-5)
        assert np.allclose(alone, backwards, atol=1e-5)


@pytest.mark.parametrize("name", ["regression", "graph_transformer", "gru"])
def test_spelling_does_not_matter(name, trained):
    run = trained[name]
    assert_spelling_invariant(
        lambda s: run.predict(s)["activity"].to_numpy(), tiny.DRUGS, spellings=5
    )


def test_molecules_differ(trained):
    for name in ("regression", "graph_transformer", "gru"):
        assert trained[name].predict(tiny.DRUGS)["activity"].nunique() == len(tiny.DRUGS)


# Columns


def test_probabilities_of_binary_tasks(trained):
    run = trained["binary"]
    frame = run.predict(tiny.DRUGS)
    tasks = [f"task {t} [probability]" for t in range(3)]
    both = (name for task in tasks for name in (task, f"{task} calibrated"))
    assert list(frame) == ["smiles", *both, "similarity", "in domain", "error"]
    assert ((frame[tasks] > 0) & (frame[tasks] < 1)).all().all()


def test_classes_their_probabilities_and_the_spread_of_an_ensemble(trained):
    frame = trained["multiclass"].predict(tiny.DRUGS)
    assert list(frame) == [
        "smiles", "task", "task p(high)", "task p(low)", "task p(middle)", "task std",
        "task calibrated p(high)", "task calibrated p(low)", "task calibrated p(middle)",
        "similarity", "in domain", "error",
    ]  # fmt: skip
    p = frame[["task p(high)", "task p(low)", "task p(middle)"]]
    assert np.allclose(p.sum(axis=1), 1)
    likeliest = p.idxmax(axis=1).str.extract(r"p\((.*)\)")[0]
    assert frame["task"].tolist() == likeliest.tolist()
    assert (frame["task std"] > 0).all()


def test_units_stand_in_brackets(tmp_path):
    table = tiny.regression()
    data = {"smiles": table.smiles, "logS [mol/L]": table.y[:, 0], "Ki (nM)": table.y[:, 0] + 1}
    pd.DataFrame(data).to_csv(tmp_path / "mine.csv", index=False)
    run = fit(tiny.recipe(epochs=1), tmp_path / "mine.csv", out=tmp_path / "run")
    assert run.info.units == ("mol/L", "nM")
    assert run.columns() == ["logS [mol/L]", "Ki (nM)"]
    assert list(run.predict(["C"])) == [
        "smiles",
        *("logS [mol/L]", "logS [mol/L] low", "logS [mol/L] high"),
        *("Ki (nM)", "Ki (nM) low", "Ki (nM) high"),
        *("similarity", "in domain", "error"),
    ]


def test_the_unit_of_a_known_task(moleculenet, tmp_path):
    table = datasets.load("esol", data_dir=moleculenet).take(slice(40))
    run = fit(tiny.recipe(epochs=1), table, out=tmp_path / "run")
    assert run.columns() == ["measured log solubility in mols per litre [log10(mol/L)]"]


# Loading


def test_loaded_in_another_process_it_predicts_the_same(trained, tmp_path):
    script = """
import sys, molsam, torch
for folder in sys.argv[2:]:
    frame = molsam.load(folder).predict({asked!r})
    frame.to_pickle(sys.argv[1] + "/" + folder.split("/")[-1])
""".format(asked=[*tiny.DRUGS, "xyz"])
    folders = [str(run.folder) for run in trained.values()]
    threads = str(torch.get_num_threads())
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), *folders],
        check=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": threads},
    )
    for run in trained.values():
        there = pd.read_pickle(tmp_path / run.folder.name)
        here = run.predict([*tiny.DRUGS, "xyz"])
        pd.testing.assert_frame_equal(here, there, check_exact=True)


def test_a_run_of_a_gpu_loads_without_one(copied, run):
    info = read_json(copied / "run.json")
    write_json(copied / "run.json", info | {"device": "cuda:0 (NVIDIA H200)"})
    (copied / SUMS).unlink()
    loaded = Run.load(copied, device="cpu")
    pd.testing.assert_frame_equal(
        loaded.predict(tiny.DRUGS), run.predict(tiny.DRUGS), check_exact=True
    )


def test_a_moved_run_needs_nothing_else(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run.folder, "elsewhere")
    assert molsam.load("elsewhere").predict(tiny.DRUGS).equals(run.predict(tiny.DRUGS))


@pytest.mark.parametrize("name", ["abacus", "cuda:99", "mps:7", ""])
def test_a_device_that_is_not_there_is_refused(name, run):
    with pytest.raises(ValueError, match="cannot be used"):
        Run.load(run.folder, device=name)


def test_the_device_of_choice():
    assert pick_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert pick_device("auto") == torch.device("cpu")


# Evaluation


def test_evaluation_of_measured_molecules(trained):
    run = trained["regression"]
    table = tiny.regression()
    found = run.evaluate(table)
    error = run.predict(table.smiles)["activity"] - table.y[:, 0]
    assert found["scores"]["rmse"]["mean"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)
    assert (found["molecules"], found["unreadable"]) == (60, 0)


def test_evaluation_counts_the_unreadable_and_needs_some_that_are_not(run):
    table = tiny.regression().take(slice(6))
    spoilt = datasets.MoleculeTable(**{**vars(table), "smiles": ("xyz", *table.smiles[1:])})
    found = run.evaluate(spoilt)
    assert (found["molecules"], found["unreadable"]) == (5, 1)
    with pytest.raises(RunError, match="none of the 6 molecules of bundled can be read"):
        run.evaluate(datasets.MoleculeTable(**{**vars(table), "smiles": ("xyz",) * 6}))


def test_classes_are_matched_by_name(trained):
    run = trained["multiclass"]
    table = tiny.multiclass()
    whole = run.evaluate(table)["scores"]["accuracy"]["mean"]
    part = table.take(table.y[:, 0] != 0)  # without "high" the codes of a file of its own shift
    own = datasets.MoleculeTable(**{**vars(part), "y": part.y - 1, "classes": ("low", "middle")})
    high = table.take(table.y[:, 0] == 0)
    parts = [run.evaluate(t)["scores"]["accuracy"]["mean"] for t in (own, high)]
    assert np.average(parts, weights=[len(own), len(high)]) == pytest.approx(whole)
    strange = datasets.MoleculeTable(**{**vars(part), "y": part.y - 1, "classes": ("low", "huge")})
    with pytest.raises(DataError, match="'huge' is not among the classes"):
        run.evaluate(strange)
