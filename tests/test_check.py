"""The invariances in `molsam.check` hold for our models, and fail for models made wrong."""

from __future__ import annotations

from functools import cache, partial
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from molsam.batches import Batch, PackedMolecules
from molsam.check import (
    assert_batch_independent,
    assert_padding_independent,
    assert_spelling_invariant,
)
from molsam.models import MODELS
from molsam.molecules import FEATURIZERS, InvalidMolecule, parse_many

SMILES = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "C",
    "[Na+].[Cl-]",
    "C[C@H](N)C(=O)O",
    "F/C=C/Br",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "CC(=O)O.c1ccccc1",
)
READOUTS = ("gru", "mean", "sum")
# Every model with every readout, every model with every featurizer.
CHOICES = [
    *product(MODELS, READOUTS, ["canonical"]),
    *product(MODELS, ["gru"], [name for name in FEATURIZERS if name != "canonical"]),
]
each_choice = pytest.mark.parametrize(("name", "readout", "featurizer"), CHOICES)


@cache
def packed(featurizer: str) -> PackedMolecules:
    return PackedMolecules.from_mols(parse_many(SMILES).mols, featurizer)


@cache
def model(name: str, readout: str, featurizer: str) -> nn.Module:
    torch.manual_seed(0)
    kind = FEATURIZERS[featurizer]
    sizes = {"width": 16, "depth": 2, "heads": 2, "dropout": 0.2, "readout": readout}
    return MODELS[name](kind.atom_size, kind.bond_size, 2, **sizes).train()


@torch.inference_mode()
def predict(model: nn.Module, featurizer: str, smiles: list[str]) -> np.ndarray:
    mols = parse_many(smiles).mols
    return model.eval()(PackedMolecules.from_mols(mols, featurizer).batch(range(len(mols)))).numpy()


@each_choice
def test_our_models_do_not_read_padding_or_company(name, readout, featurizer):
    chosen = model(name, readout, featurizer)
    assert_batch_independent(chosen, packed(featurizer))
    assert_padding_independent(chosen, packed(featurizer))


@each_choice
def test_our_models_do_not_read_the_spelling(name, readout, featurizer):
    predictions = partial(predict, model(name, readout, featurizer), featurizer)
    assert_spelling_invariant(predictions, SMILES, spellings=3)


def test_predictions_differ_between_molecules():
    # Else every invariance would hold for the wrong reason.
    for choice in CHOICES:
        values = predict(model(*choice), choice[2], list(SMILES))
        between = np.abs(values[:, None] - values).max(axis=-1)
        assert between[np.triu_indices(len(SMILES), 1)].min() > 1e-3


# Models made wrong


class Wrong(nn.Module):
    """Atom states (B, V, 8), zeros or a bias on padding, and a sum over all V."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(FEATURIZERS["canonical"].atom_size, 8)

    def states(self, batch: Batch) -> Tensor:
        atoms = batch.atoms.new_zeros(batch.mask.numel(), batch.atoms.shape[1])
        atoms[batch.slots] = batch.atoms
        return self.linear(atoms).unflatten(0, batch.mask.shape)


class PaddingSummed(Wrong):
    def forward(self, batch: Batch) -> Tensor:
        return self.states(batch).sum(1)


class PaddingMasked(Wrong):
    def forward(self, batch: Batch) -> Tensor:
        return (self.states(batch) * batch.mask[..., None]).sum(1)


class PaddingAttended(Wrong):
    def forward(self, batch: Batch) -> Tensor:
        x = self.states(batch) * batch.mask[..., None]
        return ((x @ x.mT).softmax(-1) @ x).sum(1)


class NormedAcrossMolecules(PaddingMasked):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8, track_running_stats=False)

    def forward(self, batch: Batch) -> Tensor:
        x = super().forward(batch)
        return self.norm(x) if len(x) > 1 else x


class NotANumber(PaddingMasked):
    def forward(self, batch: Batch) -> Tensor:
        return super().forward(batch) * float("nan")


class Dropping(PaddingMasked):
    def forward(self, batch: Batch) -> Tensor:
        return nn.functional.dropout(super().forward(batch), training=True)


def test_a_simple_right_model_passes():
    assert_batch_independent(PaddingMasked(), packed("canonical"))
    assert_padding_independent(PaddingMasked(), packed("canonical"))


@pytest.mark.parametrize(
    "wrong", [PaddingSummed, PaddingAttended, NormedAcrossMolecules, NotANumber, Dropping]
)
def test_reading_the_company_is_caught(wrong):
    with pytest.raises(AssertionError, match=r"predictions alone and in company differ by .*1e-05"):
        assert_batch_independent(wrong(), packed("canonical"))


@pytest.mark.parametrize("wrong", [PaddingSummed, PaddingAttended, NotANumber, Dropping])
def test_reading_the_padding_is_caught(wrong):
    with pytest.raises(AssertionError, match="predictions with 3 more padding differ by "):
        assert_padding_independent(wrong(), packed("canonical"), extra=3)


def test_tolerance_is_in_the_units_of_the_prediction():
    wrong = PaddingSummed()
    assert_padding_independent(wrong, packed("canonical"), tolerance=100)
    worst = 7 * float(wrong.linear.bias.detach().abs().max())
    with pytest.raises(AssertionError):
        assert_padding_independent(wrong, packed("canonical"), tolerance=0.99 * worst)
    assert_padding_independent(wrong, packed("canonical"), tolerance=1.01 * worst)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda smiles: np.array([[len(text)] for text in smiles]),
        lambda smiles: np.array([ord(text[0]) for text in smiles]),
        lambda smiles: np.full(len(smiles), np.nan),
    ],
)
def test_reading_the_text_is_caught(wrong):
    with pytest.raises(AssertionError, match=r"predictions of CC\(=O\)O.* spelt otherwise differ"):
        assert_spelling_invariant(wrong, SMILES)


def test_reading_what_every_spelling_shares_is_right():
    assert_spelling_invariant(lambda every: np.array([s.upper().count("O") for s in every]), SMILES)


def test_what_is_no_molecule_has_no_spellings():
    with pytest.raises(InvalidMolecule):
        assert_spelling_invariant(lambda smiles: np.zeros(len(smiles)), ["CC("])
