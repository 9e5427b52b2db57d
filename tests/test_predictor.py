"""A run as a function of batches, over data frames, dicts and a cluster."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pyarrow
import pytest
import tiny

from molsam import Predictor, Run, fit
from molsam.datasets import DataError

pytestmark = pytest.mark.usefixtures("undrawn")

FRAME = pd.DataFrame(
    {"id": np.arange(5), "drug": [*tiny.DRUGS[:4], "xyz"]}, index=["a", "b", "b", "c", "d"]
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An ensemble with a Gaussian process."""
    recipe = tiny.recipe(epochs=1, members=2, gaussian_process=True)
    with tiny.undrawn():
        return fit(recipe, tiny.regression(), out=tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def expected(run) -> pd.DataFrame:
    return run.predict(FRAME["drug"]).drop(columns="smiles")


def test_a_data_frame_keeps_its_rows_columns_and_index(run, expected):
    found = Predictor(run.folder, smiles="drug")(FRAME)
    pd.testing.assert_frame_equal(found[["id", "drug"]], FRAME)
    ours = found.drop(columns=["id", "drug"])
    pd.testing.assert_frame_equal(ours, expected.set_axis(FRAME.index), check_exact=True)
    assert found["error"].tolist()[-1] == "not valid SMILES"


def test_a_dict_of_columns_comes_back_as_one(run, expected):
    batch = {"id": FRAME["id"].to_numpy(), "drug": FRAME["drug"].tolist()}
    found = Predictor(run.folder, smiles="drug")(batch)
    assert list(found) == ["id", "drug", *expected]
    for name in expected:
        assert isinstance(found[name], np.ndarray)
        if expected[name].dtype == "boolean":
            wanted = expected[name].to_numpy(dtype=object, na_value=None)
        else:
            wanted = expected[name].to_numpy()
        np.testing.assert_array_equal(found[name], wanted)


def test_a_run_predicts_data_frames_in_chunks(run, expected):
    renamed = FRAME.rename(columns={"drug": "Canonical SMILES"})
    frames = list(run.predict_chunks(renamed, chunk=2))
    assert [len(frame) for frame in frames] == [2, 2, 1]
    np.testing.assert_allclose(pd.concat(frames)["activity"], expected["activity"], rtol=1e-5)
    with pytest.raises(DataError, match="the data frame has no column with a usual name"):
        run.predict(FRAME)
    numbered = pd.DataFrame({0: [1.0], "smiles": ["CCO"]})
    assert np.isfinite(run.predict(numbered)["activity"].item())


def test_no_rows_have_the_columns_of_others_and_their_types(run):
    predictor = Predictor(run.folder, smiles="drug")
    nothing, found = predictor(FRAME[:0]), predictor(FRAME)
    assert len(nothing) == 0
    pd.testing.assert_series_equal(nothing.dtypes, found.dtypes)
    assert schema(nothing) == schema(found) == schema(found[-1:])
    assert {"error": "string", "in domain": "bool"}.items() <= schema(nothing).items()


def schema(frame: pd.DataFrame) -> dict[str, str]:
    """The types that Arrow, and so Dask, Spark and Parquet, find for the columns."""
    found = pyarrow.Schema.from_pandas(frame, preserve_index=False)
    return {field.name: str(field.type).removeprefix("large_") for field in found}


def test_a_class_that_is_not_known_is_none(tmp_path):
    recipe = tiny.recipe(epochs=1)
    with tiny.undrawn():
        run = fit(recipe, tiny.multiclass(), out=tmp_path / "run")
    (task,) = run.columns()
    frame = FRAME[["drug"]][-2:]
    found = Predictor(run.folder, smiles="drug")(frame)
    assert found[task].iloc[0] in run.info.classes
    assert found[task].isna().tolist() == [False, True]
    assert schema(found)[task] == schema(found[:0])[task] == "string"
    assert Predictor(run.folder, smiles="drug")({"drug": list(frame["drug"])})[task][1] is None


def test_what_is_sent_is_a_path(run, tmp_path, monkeypatch, expected):
    monkeypatch.chdir(run.folder.parent)
    predictor = Predictor("run", smiles="drug")
    predictor(FRAME)
    sent = pickle.dumps(predictor)
    assert len(sent) < 1000
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(pickle.loads(sent)(FRAME)["activity"], expected["activity"])


@pytest.mark.usefixtures("polite_ray")
def test_ray_maps_it_over_a_data_set(run, expected):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        rows = ray.data.from_pandas(pd.concat([FRAME] * 4, ignore_index=True)).repartition(3)
        found = rows.map_batches(
            Predictor,
            fn_constructor_args=[str(run.folder)],
            fn_constructor_kwargs={"smiles": "drug", "device": "cpu"},
            batch_format="pandas",
            batch_size=7,
            concurrency=2,
        ).to_pandas()
    finally:
        ray.shutdown()
    assert len(found) == 20
    for number, row in expected.reset_index(drop=True).iterrows():
        values = found.loc[found["id"] == number, "activity"]
        np.testing.assert_allclose(values, [row["activity"]] * 4, rtol=1e-5)
    assert (found["error"] != "").sum() == 4
