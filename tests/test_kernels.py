"""Kernels are their formulas, and those of RDKit and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rdkit.Chem import rdFingerprintGenerator
from rdkit.DataStructs import TanimotoSimilarity
from sklearn.metrics import pairwise
from sklearn.svm import SVR

from molsam import kernels, molecules
from molsam.kernels import min_max_kernel, rbf_kernel, rbf_unit, squared_distances

SMILES = ["CCO", "c1ccccc1", "C", "[Na+].[Cl-]", "CC(=O)Oc1ccccc1C(=O)O", "[Fe+2]", "C" * 60]


def min_max_twin(a: np.ndarray, b: np.ndarray) -> float:
    smaller = sum(min(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True))
    larger = sum(max(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return smaller / larger if larger else 1.0


COUNTS = arrays(np.uint16, st.tuples(st.integers(1, 7), st.just(5)), elements=st.integers(0, 9))


@given(COUNTS, COUNTS, st.integers(1, 4))
def test_the_min_max_kernel_is_its_formula(a, b, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "CELLS", block * len(b))
        found = min_max_kernel(a, b)
    expected = [[min_max_twin(x, y) for y in b] for x in a]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_min_max_kernel_is_rdkits_tanimoto_similarity():
    smiles = [*SMILES, *tiny.regression(20).smiles]
    mols = molecules.parse_many(smiles).mols
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = [generator.GetCountFingerprint(mol) for mol in mols]
    counts = np.stack([molecules.morgan_counts(mol) for mol in mols]).astype(np.uint16)
    found = min_max_kernel(counts, counts[:9])
    expected = [[TanimotoSimilarity(p, q) for q in prints[:9]] for p in prints]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_the_rbf_kernel_is_scikit_learns(spread):
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(7, 3)) * spread, generator.normal(size=(4, 3))
    found = rbf_kernel(a, b, 0.7)
    np.testing.assert_allclose(found, pairwise.rbf_kernel(a, b, gamma=0.7), rtol=1e-9)
    assert (squared_distances(a, a) >= 0).all()


def test_the_unit_of_gamma_is_scikit_learns_scale():
    x = np.random.default_rng(0).normal(size=(20, 5)) * 3
    machine = SVR(gamma="scale").fit(x, x[:, 0])
    assert rbf_unit(x) == pytest.approx(machine._gamma)
    assert np.isfinite(rbf_unit(np.ones((3, 2))))
