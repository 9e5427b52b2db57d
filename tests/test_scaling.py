"""Scales: there and back, never infinite, whatever the columns hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.special import ndtri
from sklearn.preprocessing import QuantileTransformer

from molsam import molecules
from molsam.scaling import CLIP, FARTHEST, QUANTILES, VIEWS, DescriptorScaler, Standardizer

pytestmark = pytest.mark.filterwarnings("error")

MODERATE = st.floats(-1e6, 1e6)
ANYTHING = st.floats() | st.sampled_from([0.0, 1e300, -1e300, 1e-300, np.nan, np.inf])


def tables(elements):
    shapes = array_shapes(min_dims=2, max_dims=2, max_side=8)
    return arrays(np.float64, shapes, elements=elements)


# Targets


def test_a_standardizer_is_mean_and_deviation_of_what_is_known():
    x = np.array([[1.0, np.nan, 7.0], [3.0, 4.0, 7.0], [np.nan, 8.0, 7.0]])
    scaler = Standardizer.fit(x)
    assert scaler.center.tolist() == [2, 6, 7]
    assert scaler.scale.tolist() == [1, 2, 1]
    z = scaler.transform(x)
    np.testing.assert_array_equal(z, [[-1, np.nan, 0], [1, -1, 0], [np.nan, 1, 0]])
    np.testing.assert_array_equal(scaler.inverse(z), x)


@given(value=st.floats(-1e30, 1e30), rows=st.integers(1, 1000))
def test_a_constant_column_has_scale_1(value, rows):
    # The mean of .1, .1, .1 is not .1, and their deviation not 0.
    scaler = Standardizer.fit(np.full((rows, 1), value))
    assert scaler.scale.tolist() == [1]
    assert scaler.center == pytest.approx([value], rel=1e-12)


@given(tables(MODERATE))
def test_there_and_back(x):
    scaler = Standardizer.fit(x)
    assert (scaler.scale > 0).all()
    z = scaler.transform(x)
    np.testing.assert_allclose(scaler.inverse(z), x, rtol=1e-9, atol=1e-9)
    assert np.abs(z).max() <= np.sqrt(len(x)) + 1e-3


def test_float32_columns_are_scaled_in_double_precision():
    x = np.full((100_000, 1), 1e4, dtype=np.float32)
    x[::2] += 1
    scaler = Standardizer.fit(x)
    assert (scaler.center.item(), scaler.scale.item()) == (10_000.5, 0.5)


def test_the_identity_changes_nothing():
    x = np.array([[1.5, np.nan]])
    np.testing.assert_array_equal(Standardizer.identity(2).transform(x), x)


@given(tables(MODERATE))
def test_a_standardizer_goes_through_json_bit_for_bit(x):
    scaler = Standardizer.fit(x)
    again = Standardizer.from_dict(json.loads(json.dumps(scaler.to_dict())))
    assert again.center.tobytes() == scaler.center.tobytes()
    assert again.scale.tobytes() == scaler.scale.tobytes()


# Descriptors


def ranked(train, x):
    """How large and where among `train`, each (N, P)."""
    return np.hsplit(DescriptorScaler.fit(train, "ranked").transform(x), VIEWS["ranked"])


@given(st.data(), st.sampled_from(sorted(VIEWS)))
def test_scaled_descriptors_are_finite_and_bounded_whatever_they_hold(data, scale):
    train = data.draw(tables(ANYTHING))
    new = data.draw(arrays(np.float64, (5, train.shape[1]), elements=ANYTHING))
    before = train.copy()
    scaler = DescriptorScaler.fit(train, scale)
    assert np.isfinite(scaler.spread.center).all()
    assert (np.isfinite(scaler.spread.scale) & (scaler.spread.scale > 0)).all()
    for x in (train, new):
        z = scaler.transform(x)
        assert (z.dtype, z.shape) == (np.float32, (len(x), VIEWS[scale] * x.shape[1]))
        assert (np.abs(z) <= {"robust": CLIP, "ranked": FARTHEST}[scale]).all()
        assert (z[np.tile(np.isnan(x), VIEWS[scale])] == 0).all()
    np.testing.assert_array_equal(train, before)


@given(tables(MODERATE), st.sampled_from(sorted(VIEWS)))
def test_no_scale_turns_the_order_round(x, scale):
    z = DescriptorScaler.fit(x, scale).transform(x)[x[:, 0].argsort()]
    assert (np.diff(z[:, :: x.shape[1]], axis=0) >= -1e-6).all()


@given(tables(ANYTHING), st.sampled_from(sorted(VIEWS)))
def test_a_scaler_of_descriptors_outlives_json(x, scale):
    scaler = DescriptorScaler.fit(x, scale)
    again = DescriptorScaler.from_dict(json.loads(json.dumps(scaler.to_dict())))
    np.testing.assert_array_equal(again.transform(x), scaler.transform(x))


def test_a_tail_does_not_move_the_scale():
    x = np.random.default_rng(0).normal(3.0, 2.0, (10_000, 1))
    spread = DescriptorScaler.fit(x, "robust").spread
    assert spread.center == pytest.approx([3], abs=0.1)
    assert spread.scale == pytest.approx([2], rel=0.05)
    x[:100] = [[1e40]]
    x[100:200] = np.inf
    x[200:300] = np.nan
    spoilt = DescriptorScaler.fit(x, "robust")
    assert spoilt.spread.center == pytest.approx(spread.center, abs=0.1)
    assert spoilt.spread.scale == pytest.approx(spread.scale, rel=0.05)
    odd = x[[0, 100, 200]]
    assert spoilt.transform(odd).ravel().tolist() == [CLIP, CLIP, 0]
    size, rank = ranked(x, odd)
    assert size.ravel() == pytest.approx([np.arcsinh(CLIP), np.arcsinh(CLIP), 0])
    assert rank.ravel().tolist() == [FARTHEST, FARTHEST, 0]


def test_the_rank_of_normal_numbers_is_their_standard_score():
    x = np.random.default_rng(0).normal(3.0, 2.0, (10_000, 1))
    inside = np.abs(x - 3) < 4
    np.testing.assert_allclose(ranked(x, x)[1][inside], (x[inside] - 3) / 2, atol=0.1)


def test_equal_numbers_share_the_middle_of_their_ranks_but_at_the_ends():
    x = np.repeat([0.0, 1.0, 2.0, 5.0], [50, 20, 20, 10])[:, None]
    rank = ranked(x, np.array([[-1.0], [0], [1], [2], [5], [9]]))[1]
    middle = ndtri([0.6, 0.8])
    expected = [-FARTHEST, -FARTHEST, *middle, FARTHEST, FARTHEST]
    assert rank.ravel() == pytest.approx(expected, abs=0.05)


def test_the_rank_is_scikit_learns_quantile_transform():
    rng = np.random.default_rng(0)
    x = np.hstack([rng.poisson(1.0, (500, 3)), rng.lognormal(0, 2, (500, 2))])
    reference = QuantileTransformer(n_quantiles=QUANTILES, output_distribution="normal")
    expected = reference.fit(x).transform(x).clip(-FARTHEST, FARTHEST)
    np.testing.assert_allclose(ranked(x, x)[1], expected, atol=1e-5)


def test_columns_without_spread():
    zero, same = np.zeros(8), np.full(8, 0.1)
    rare, missing = np.array([0.0] * 7 + [4]), np.full(8, np.nan)
    x = np.stack([zero, same, rare, missing], axis=1)
    spread = DescriptorScaler.fit(x, "robust").spread
    assert spread.center.tolist() == [0, 0.1, 0, 0]
    assert spread.scale == pytest.approx([1, 1, rare.std(), 1])
    size, rank = ranked(x, x)
    assert not size[:, [0, 1, 3]].any()
    assert not rank[:, [0, 1, 3]].any()
    assert rank[:, 2].tolist() == [-FARTHEST] * 7 + [FARTHEST]


@pytest.mark.parametrize("scale", VIEWS)
def test_descriptors_of_odd_molecules(scale):
    smiles = ["NCCCCC" * 20, "[Na+].[Cl-]", "C[Fe]", "C", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1"]
    mols = molecules.parse_many(smiles).mols
    x = np.stack([molecules.descriptors(mol) for mol in mols])
    assert np.nanmax(x) > 1e12  # Ipc of the long chain
    assert np.isnan(x).any()  # charges of the metals
    z = DescriptorScaler.fit(x, scale).transform(x)
    assert (np.abs(z) <= CLIP).all()
    assert (z.std(axis=0) > 0).sum() > 100 * VIEWS[scale]
