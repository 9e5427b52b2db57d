"""From SMILES to a model's outputs, and from these to the user's units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import molecules, reading
from .batches import Batch, PackedMolecules, evaluation_batches
from .environment import autocast
from .models import MODELS, MoleculeModel
from .recipes import DataConfig, Recipe
from .records import RunInfo, Scalers
from .scaling import VIEWS


def read_molecules(smiles: Sequence[str], choices: DataConfig, **how: Any) -> reading.Reading:
    """The molecules as the recipe's model reads them, but for scales and labels.

    `how` goes to `reading.begin`, in place of what `choices` say.
    """
    return begin_reading(smiles, choices, **how)()


def begin_reading(
    smiles: Iterable[str], choices: DataConfig, **how: Any
) -> Callable[[], reading.Reading]:
    """`read_molecules`, begun; what is returned waits for it."""
    names = ("featurizer", "salts", "charges", "descriptors", "fingerprints")
    return reading.begin(smiles, **{**{name: getattr(choices, name) for name in names}, **how})


def describe(
    packed: PackedMolecules,
    raw: np.ndarray | None,
    counts: np.ndarray | None,
    choices: DataConfig,
    scalers: Scalers,
) -> PackedMolecules:
    """The molecules with what the recipe joins to them: `raw` descriptors (N, P), scaled, and the
    logarithms of Morgan `counts` (N, 2048) behind them."""
    joined = []
    if raw is not None and scalers.descriptors is not None:
        joined.append(scalers.descriptors.transform(raw))
    if choices.fingerprints:
        assert counts is not None
        joined.append(np.log1p(counts, dtype=np.float32))
    if not joined:
        return packed
    return replace(packed, descriptors=torch.from_numpy(np.hstack(joined)))


def output_size(info: RunInfo) -> int:
    """Outputs of the model: one per task, or one per task and class."""
    return len(info.tasks) * max(1, len(info.classes))


def build_model(recipe: Recipe, info: RunInfo) -> MoleculeModel:
    """The recipe's model with fresh weights from torch's random state."""
    kind = molecules.FEATURIZERS[recipe.data.featurizer]
    config = recipe.model.model_dump(exclude={"name"})
    views = VIEWS[recipe.data.descriptor_scale] if recipe.data.descriptors else 0
    model = MODELS[recipe.model.name]
    sizes = (kind.atom_size, kind.bond_size, output_size(info))
    counts = molecules.MORGAN_SIZE if recipe.data.fingerprints else 0
    joined = views * len(molecules.DESCRIPTORS)
    return model(*sizes, descriptor_size=joined, fingerprint_size=counts, **config)


def infer(
    model: nn.Module, packed: PackedMolecules, recipe: Recipe, index: np.ndarray | None = None
) -> Tensor:
    """(N, O) float32 outputs in model space, on the CPU, for the molecules `index`, else all."""
    model.eval()
    return by_batches(model, model, packed, recipe, index)


def infer_with_dropout(
    model: nn.Module, packed: PackedMolecules, recipe: Recipe, *, passes: int, seed: int
) -> Tensor:
    """(K, N, O) what `infer` gives in each of K `passes` with dropout, drawn anew from `seed`.

    Their spread is that of Monte Carlo dropout: Gal and Ghahramani, ICML 2016, section 4.
    """
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model.train()
        try:
            return torch.stack([by_batches(model, model, packed, recipe) for _ in range(passes)])
        finally:
            model.eval()


@torch.inference_mode()
def by_batches(
    model: nn.Module,
    compute: Callable[[Batch], Tensor],
    packed: PackedMolecules,
    recipe: Recipe,
    index: np.ndarray | None = None,
) -> Tensor:
    """What `compute`, a part of `model`, makes of the molecules: (N, ...) float32, on the CPU."""
    device = next(model.parameters()).device
    packed, training = packed.to(device), recipe.training
    index = np.arange(len(packed)) if index is None else index
    sizes = packed.sizes.cpu().numpy()[index]
    # Of a layer nothing is kept for a backward pass: there is room for more than in training.
    batches = evaluation_batches(sizes, 4 * training.batch_size, max_pairs=training.max_pairs)
    with autocast(device, training.precision):
        parts = [compute(packed.batch(index[chosen])) for chosen in batches]
    outputs = torch.cat(parts).float().cpu()
    return outputs[np.argsort(np.concatenate(batches))]


def to_user(outputs: Tensor, info: RunInfo, scalers: Scalers) -> np.ndarray:
    """Model space (N, O) to user units: values, probabilities (N, T), or classes (N, T, C)."""
    outputs = outputs.double()
    if info.kind == "regression":
        return scalers.target.inverse(outputs.numpy())
    if info.kind == "binary":
        return torch.sigmoid(outputs).numpy()
    return torch.softmax(outputs.unflatten(-1, (len(info.tasks), -1)), dim=-1).numpy()
