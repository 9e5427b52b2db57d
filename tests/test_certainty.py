"""Intervals hold what they promise, temperatures are found, neighbours are the nearest ones."""

from __future__ import annotations

import importlib.util
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from molsam import Run, fit, molecules, reading
from molsam.certainty import Certainty, temperature_of, tempered
from molsam.files import RunError, read_json
from molsam.inference import infer, infer_with_dropout
from molsam.kernels import min_max_kernel
from molsam.runs import CERTAINTY

COUNTS = np.random.default_rng(0).integers(0, 3, (9, 2048)).astype(np.uint16)


def of(r: np.ndarray, std: float = 0.0) -> Certainty:
    """A regression whose validation rows are missed by `r` (N, T)."""
    y = np.asarray(r, float)
    return Certainty.fit(
        "regression", y, np.zeros(y.shape), np.full(y.shape, std), COUNTS[:3], COUNTS
    )


def half(sure: Certainty, coverage: float, std: float = 0.0) -> float:
    shape = (1, len(sure.scores))
    low, high = sure.interval(np.zeros(shape), np.full(shape, std), coverage)
    np.testing.assert_array_equal(low, -high)
    return float(high[0, 0])


# Intervals


@given(
    st.lists(st.floats(0, 1e6), min_size=2, max_size=40),
    st.sampled_from([0.1, 0.5, 0.8, 0.9, 0.95]),
)
def test_of_exchangeable_rows_enough_lie_within(r, coverage):
    """Each of n + 1 rows in turn is new and the others are validation rows: the share of those
    within is at least the coverage, which is the theorem."""
    errors = np.array(r)
    inside = [errors[i] <= half(of(np.delete(errors, i)[:, None]), coverage) for i in range(len(r))]
    assert np.mean(inside) >= coverage - 1e-12


@pytest.mark.parametrize(("rows", "coverage"), [(9, 0.9), (19, 0.95), (29, 0.9), (4, 0.8)])
def test_the_rank_is_not_one_too_many(rows, coverage):
    """(n + 1) c is whole here, if for rounding it may not look so."""
    errors = np.arange(1.0, rows + 1)
    assert half(of(errors[:, None]), coverage) == round((rows + 1) * coverage)


def test_too_few_rows_tell_nothing():
    errors = np.ones((8, 1))
    assert half(of(errors), 0.88) == 1
    assert math.isinf(half(of(errors), 0.9))
    assert math.isinf(half(of(np.full((3, 1), np.nan)), 0.1))


def test_an_interval_lies_around_the_prediction():
    low, high = of(np.arange(1.0, 20)[:, None]).interval(np.array([[7.0]]), np.zeros((1, 1)), 0.5)
    assert (low.item(), high.item()) == (-3, 17)


def test_the_share_within_is_what_was_asked_for():
    """Spread differs from row to row, as the models' does; drawn 400 times."""
    generator, inside = np.random.default_rng(0), []
    for _ in range(400):
        std = generator.uniform(0.1, 2, (60, 1))
        y = generator.normal(size=std.shape) * std
        sure = Certainty.fit("regression", y[:50], 0 * y[:50], std[:50], COUNTS[:3], COUNTS)
        low, high = sure.interval(0 * y[50:], std[50:], 0.8)
        inside.append(np.mean((low <= y[50:]) & (y[50:] <= high)))
    expected, error = math.ceil(51 * 0.8) / 51, np.std(inside) / math.sqrt(len(inside))
    assert abs(np.mean(inside) - expected) < 4 * error


def test_intervals_go_with_the_spread_of_the_models():
    sure = of(np.arange(1.0, 20)[:, None], std=2.0)
    assert half(sure, 0.9, std=2.0) == pytest.approx(18)
    assert half(sure, 0.9, std=0.0) == pytest.approx(9)
    assert half(sure, 0.9, std=6.0) == pytest.approx(36)


def test_tasks_are_apart_and_missing_labels_left_out():
    r = np.arange(1.0, 20)[:, None] * [1.0, 10.0]
    r[::2, 1] = np.nan
    both = of(r)
    low, high = both.interval(np.zeros((2, 2)), np.zeros((2, 2)), 0.9)
    assert high[0].tolist() == [18.0, 180.0]
    assert [len(scores) for scores in both.scores] == [19, 9]
    np.testing.assert_array_equal(low, -high)


@pytest.mark.parametrize("coverage", [0, 1, 90, -0.5, math.nan])
def test_a_coverage_that_is_no_share_is_refused(coverage):
    with pytest.raises(ValueError, match=r"coverage is a share between 0 and 1, such as 0.9, not"):
        half(of(np.ones((3, 1))), coverage)


# Temperature


@pytest.mark.parametrize("true", [0.5, 1.0, 2.0])
def test_a_temperature_is_found_in_many_rows(true):
    generator = np.random.default_rng(0)
    p = expit(3 * generator.normal(size=(20_000, 2)))
    y = (generator.random(p.shape) < expit(logit(p) / true)).astype(float)
    y[::3, 1] = np.nan
    assert temperature_of(y, p) == pytest.approx(true, rel=0.05)
    labels = np.stack([1 - p, p], axis=-1)
    assert temperature_of(y, labels) == pytest.approx(temperature_of(y, p), rel=1e-4)


def test_few_rows_hardly_move_it():
    p = np.full((20, 1), 0.9)
    y = (np.arange(20) < 10)[:, None].astype(float)  # half of what was said to be nine tenths
    assert 1 < temperature_of(y, p) < 1.25
    assert temperature_of(np.tile(y, (500, 1)), np.tile(p, (500, 1))) > 4


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9), st.floats(0.2, 5))
def test_a_temperature_keeps_the_order(p, temperature):
    found = tempered(np.array(p)[:, None], temperature)[:, 0]
    order = np.argsort(p, kind="stable")
    assert (np.diff(found[order]) >= -1e-12).all()
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(tempered(np.array(p)[:, None], 1.0)[:, 0], p, atol=2e-6)


def test_classes_at_a_temperature_add_up_to_one():
    p = np.random.default_rng(0).dirichlet(np.ones(4), (5, 3))
    found = tempered(p, 2.0)
    np.testing.assert_allclose(found.sum(-1), 1)
    np.testing.assert_allclose(found, np.sqrt(p) / np.sqrt(p).sum(-1, keepdims=True), rtol=1e-4)


# Files


@pytest.mark.parametrize("kind", ["regression", "binary"])
def test_what_is_saved_is_loaded(kind, tmp_path):
    generator = np.random.default_rng(0)
    y, p = generator.integers(0, 2, (6, 2)).astype(float), generator.random((6, 2))
    sure = Certainty.fit(kind, y, p, p / 2, COUNTS[:6], COUNTS)
    sure.save(tmp_path / "one")
    loaded = Certainty.load(tmp_path / "one")
    loaded.save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (loaded.temperature, loaded.edge) == (sure.temperature, sure.edge)
    np.testing.assert_array_equal(loaded.counts, COUNTS)
    assert len(loaded.scores) == len(sure.scores) == (2 if kind == "regression" else 0)


# Runs


@pytest.fixture(scope="module", params=tiny.KINDS)
def trained(request, tmp_path_factory):
    """A run of two models with dropout, and the table it learnt from."""
    table = tiny.KINDS[request.param]()
    recipe = tiny.recipe(epochs=1, fractions=(0.4, 0.4, 0.2)).change(
        {"members": 2, "gaussian_process": True}
    )
    with tiny.undrawn():
        return table, fit(recipe, table, out=tmp_path_factory.mktemp("run") / "run")


def columns_of(run: Run, ending: str) -> list[str]:
    return [f"{column}{ending}" for column in run.columns()]


def test_a_run_says_how_sure_it_is(trained):
    """Its columns are those of a certainty that is fitted anew here to its validation rows."""
    table, run = trained
    rows = read_json(run.folder / "split.json")
    mols = molecules.parse_many(table.smiles).mols
    mean, std = run.predict_mols(mols)
    counts = reading.fingerprint_matrix(mols)
    valid, train, test = (rows[part] for part in ("valid", "train", "test"))
    sure = Certainty.fit(
        table.kind, table.y[valid], mean[valid], std[valid], counts[valid], counts[train]
    )
    found = run.predict([table.smiles[i] for i in test], coverage=0.6)
    if table.kind == "regression":
        low, high = sure.interval(mean[test], std[test], 0.6)
        np.testing.assert_allclose(found[columns_of(run, " low")], low, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[columns_of(run, " high")], high, rtol=1e-4, atol=1e-5)
    else:
        names = [name for name in found if " calibrated" in name]
        p = sure.calibrated(mean[test]).reshape(len(test), -1)
        np.testing.assert_allclose(found[names], p, rtol=1e-4, atol=1e-5)
    nearest = min_max_kernel(counts[test], counts[train]).max(axis=1)
    np.testing.assert_allclose(found["similarity"], nearest, rtol=1e-6)
    edge = np.quantile(min_max_kernel(counts[valid], counts[train]).max(axis=1), 0.05)
    assert found["in domain"].tolist() == (nearest >= np.float32(edge)).tolist()


def test_what_it_was_trained_on_is_its_domain(trained):
    table, run = trained
    rows = read_json(run.folder / "split.json")["train"]
    found = run.predict([*(table.smiles[i] for i in rows[:3]), "Br[Mg]C1CC1", "nothing"])
    assert found["similarity"].tolist()[:3] == [1, 1, 1]
    assert found["in domain"].tolist()[:4] == [True, True, True, False]
    assert found["in domain"].isna().tolist() == [False] * 4 + [True]
    assert found[found["in domain"]].index.tolist() == [0, 1, 2]


def test_the_table_of_test_rows_says_it_too(trained):
    table, run = trained
    rows = read_json(run.folder / "split.json")["test"]
    written = pd.read_csv(run.folder / "predictions.csv")
    found = run.predict([table.smiles[i] for i in rows])
    for name in found.columns.drop(["smiles", "error"]):
        ours = written[name if name in ("similarity", "in domain") else f"predicted {name}"]
        if ours.dtype == float:
            np.testing.assert_allclose(ours, found[name], rtol=1e-4, atol=1e-5)
        else:
            assert ours.tolist() == found[name].tolist()


def test_passes_with_dropout_have_a_spread(trained):
    _, run = trained
    before = torch.random.get_rng_state()
    plain, drawn = run.predict(tiny.DRUGS), run.predict(tiny.DRUGS, dropout_passes=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    spread = [name for name in plain if name.endswith(" std")]
    pd.testing.assert_frame_equal(plain.drop(columns=spread), drawn.drop(columns=spread))
    assert (drawn[spread] != plain[spread]).all(axis=None)
    pd.testing.assert_frame_equal(run.predict(tiny.DRUGS, dropout_passes=5), drawn)
    pd.testing.assert_frame_equal(run.predict(tiny.DRUGS), plain)


def test_the_spread_is_that_of_the_passes(trained):
    _, run = trained
    read = run.read(tiny.DRUGS)
    assert read.packed is not None
    passes = infer_with_dropout(run.models[0], read.packed, run.recipe, passes=3, seed=0)
    plain = infer(run.models[0], read.packed, run.recipe)
    assert passes.shape == (3, *plain.shape)
    assert not torch.equal(passes[0], passes[1])
    many = infer_with_dropout(run.models[0], read.packed, run.recipe, passes=400, seed=0)
    error = many.std(0) / 20
    assert ((many.mean(0) - plain).abs() < 6 * error + 0.02).all()


def test_passes_of_models_without_dropout_are_refused(tmp_path):
    table = tiny.regression()
    with tiny.undrawn():
        run = fit(tiny.recipe(epochs=1).change({"dropout": 0.0}), table, out=tmp_path / "run")
    with pytest.raises(RunError, match=r"have no dropout.*train with --set model.dropout=0.1"):
        run.predict(tiny.DRUGS, dropout_passes=3)
    found = run.predict(["nonsense"], dropout_passes=3)
    assert found["error"].tolist() == ["not valid SMILES"]
    assert not any(name.endswith(" std") for name in run.predict(tiny.DRUGS))
    width = run.predict(tiny.DRUGS).eval("`activity high` - `activity low`")
    np.testing.assert_allclose(width, width[0], rtol=1e-6)  # one model: all are as wide


def test_a_certainty_is_under_the_seal(trained, tmp_path):
    _, run = trained
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    path = copy / CERTAINTY
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    with pytest.raises(RunError, match=f"{CERTAINTY} was changed"):
        Run.load(copy)
    path.unlink()
    with pytest.raises(RunError, match=f"{CERTAINTY} is missing"):
        Run.load(copy)


def test_one_without_is_a_run_all_the_same(trained):
    """As a run is before it is finished."""
    _, run = trained
    bare = replace(run)
    bare.__dict__["certainty"] = None
    found = bare.predict(tiny.DRUGS)
    assert not {"similarity", "in domain"} & set(found)
    assert not [name for name in found if name.endswith((" low", " high")) or "calibrated" in name]


# What docs/studies/certainty.py measures

SCRIPT = Path(__file__).parents[1] / "docs/studies/certainty.py"
SPEC = importlib.util.spec_from_file_location("measured_certainty", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
measured = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(measured)


def test_what_is_measured_is_in_the_table_of_test_rows(trained):
    table, run = trained
    if table.classes:
        return  # the script serves values and two classes
    row, written = measured.measure(run), pd.read_csv(run.folder / "predictions.csv")
    assert row["n_test"] == len(written)
    assert row["outside"] == (~written["in domain"]).sum()
    y, mean = (
        written[[f"{word} {name}" for name in names]].to_numpy(float)
        for word, names in (("measured", table.tasks), ("predicted", run.columns()))
    )
    known = ~np.isnan(y)
    if table.kind == "regression":
        low, high = (
            written[[f"predicted {name}" for name in columns_of(run, ending)]].to_numpy()
            for ending in (" low", " high")
        )
        assert row["within_90%"] == pytest.approx(((low <= y) & (y <= high))[known].mean())
        assert row["width_90%"] == pytest.approx(np.median(high - low), rel=1e-4)
    else:
        p = np.where(y == 1, mean, 1 - mean)[known]
        assert row["log_loss_raw"] == pytest.approx(-np.log(p).mean(), rel=1e-4)
