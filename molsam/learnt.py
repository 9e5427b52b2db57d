"""What a run has learnt, tried on one molecule as it is read.

A checksum says that a file is the one that was written, not that it belongs to such a run: what
does not fit is refused here by its name, not where it is first used.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from . import molecules
from .certainty import Certainty
from .files import RunError, fitting, load_state
from .gaussian_process import GaussianProcess, Inputs
from .inference import build_model
from .models import MoleculeModel
from .recipes import Recipe
from .records import RunInfo, Scalers

COUNTS = np.ones((1, molecules.MORGAN_SIZE))
DESCRIPTORS = np.ones((1, len(molecules.DESCRIPTORS)))


def scalers(path: Path, info: RunInfo, recipe: Recipe) -> Scalers:
    """Scales of the tasks, and of descriptors where the recipe has them."""
    found = Scalers.load(path)
    with fitting(path):
        labels = np.ones((1, len(info.tasks)))
        _same(found.target.inverse(labels), labels)
        if (found.descriptors is not None) != recipe.data.descriptors:
            raise ValueError("scales of descriptors and data.descriptors go together")
        if found.descriptors is not None:
            found.descriptors.transform(DESCRIPTORS)
    return found


def model(path: Path, info: RunInfo, recipe: Recipe) -> MoleculeModel:
    """A trained model, on the CPU."""
    with fitting(path):
        state = load_state(path)["model"]
        # Without storage first: a recipe that was edited may ask for any size.
        with torch.device("meta"):
            shapes = build_model(recipe, info)
        try:
            shapes.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise RunError(
                f"{path} holds another model than run.json and recipe.toml say; copy the run again"
            ) from error
    with torch.random.fork_rng([]):  # the fresh weights are drawn only to be replaced
        trained = build_model(recipe, info)
    trained.load_state_dict(state)
    return trained


def process(path: Path, info: RunInfo) -> GaussianProcess | None:
    """The Gaussian process that joins the models, where there is one."""
    if not path.is_file():
        return None
    with fitting(path):
        found, inputs, outcome = GaussianProcess.load(path), Inputs(COUNTS, DESCRIPTORS), _one(info)
        _same(found.predict(inputs), outcome)
        _same(found.mixed(outcome, inputs), outcome)
    return found


def certainty(path: Path, info: RunInfo) -> Certainty | None:
    """What tells how sure predictions are, where there is one."""
    if not path.is_file():
        return None
    with fitting(path):
        found, outcome = Certainty.load(path), _one(info)
        _same(found.similarity(COUNTS), np.ones(1))
        if info.kind == "regression":
            _same(found.interval(outcome, outcome)[0], outcome)
        else:
            _same(found.calibrated(outcome), outcome)
    return found


def _one(info: RunInfo) -> np.ndarray:
    """Something of the shape of one prediction."""
    return np.full(info.shape(1), 0.5)


def _same(found: np.ndarray, expected: np.ndarray) -> None:
    if found.shape != expected.shape:
        raise ValueError(f"it gives the shape {found.shape} in place of {expected.shape}")
