"""A training step asks its device for no more than it has to: on a GPU answers are waited for."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import tiny
from random_batches import ATOM, BOND, OUTPUTS, random_batch
from torch.utils._python_dispatch import TorchDispatchMode

from molsam import epochs, fit
from molsam.batches import PackedMolecules
from molsam.losses import LOSSES
from molsam.models import MODELS
from molsam.molecules import FEATURIZERS, parse_many

ASK = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "is_nonzero"}
SMILES = ["CCO", "C", "c1ccccc1O", "[Na+].[Cl-]", "CC(=O)Oc1ccccc1C(=O)O"]


def on_meta(packed: PackedMolecules) -> PackedMolecules:
    """The data set on a device that has shapes and no values, with what the host knows of it."""
    meta = packed.to("meta")
    meta.__dict__["_lengths"] = packed._lengths
    return meta


@pytest.mark.parametrize("featurizer", FEATURIZERS)
def test_a_batch_is_cut_without_asking_the_device(featurizer):
    packed = PackedMolecules.from_mols(parse_many(SMILES).mols, featurizer, np.ones((5, 1)))
    batch, known = on_meta(packed).batch(np.array([3, 0, 4])), packed.batch([3, 0, 4])
    shapes = {f.name: getattr(known, f.name).shape for f in fields(known)}
    assert {f.name: getattr(batch, f.name).shape for f in fields(batch)} == shapes
    assert {getattr(batch, f.name).device.type for f in fields(batch)} == {"meta"}


@pytest.mark.parametrize("readout", ["mean", "sum"])
@pytest.mark.parametrize("name", MODELS)
def test_a_gradient_is_taken_without_asking_the_device(name, readout):
    model = MODELS[name](ATOM, BOND, OUTPUTS, width=8, heads=2, readout=readout).to("meta").train()
    batch = random_batch().to("meta")
    LOSSES["mse"](model(batch), batch.y, batch.label_mask).backward()
    assert all(p.grad is not None for p in model.parameters())


class Questions(TorchDispatchMode):
    """Counts what a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in ASK
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("fields", "per_step"),
    [
        ({"optimizer.name": "none"}, 0),
        ({}, 2),  # the norms of omega and of the average, or of an anchor's gradient
        ({"optimizer.name": "sam"}, 2),
        ({"optimizer.name": "none", "clip_norm": 1.0}, 0),
        ({"optimizer.name": "none", "precision": "bfloat16"}, 0),
    ],
    ids=str,
)
def test_a_step_asks_for_its_norms_alone(fields, per_step, tmp_path, monkeypatch):
    asked = []
    epoch = epochs.Trainer._epoch

    def counted(trainer, member):
        with Questions() as questions:
            row = epoch(trainer, member)
        asked.append(questions.count - per_step * len(trainer._batches(0, member.epoch)))
        return row

    monkeypatch.setattr(epochs.Trainer, "_epoch", counted)
    with tiny.undrawn():
        fit(tiny.recipe(epochs=2, **fields), tiny.regression(), out=tmp_path / "run")
    assert asked == [0, 0]  # the losses of an epoch leave the device as one copy
