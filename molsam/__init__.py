"""Molecular property prediction with graph transformers, trained by GraphSAM.

    "CCO" -> Mol -> PackedMolecules -> Batch -> prediction (B, T) -> masked loss
          -> GraphSAM.step(closure) -> Run -> a table in the user's own units

Vocabulary: a `Recipe` pairs a model (`CoMPT`, `GraphTransformer`) with an optimizer (`GraphSAM`,
`SAM`) and says how to train; `fit(recipe, data)` trains it on a `MoleculeTable` and leaves a `Run`;
`load(folder)` opens a run; `run.predict(smiles)` gives one row per molecule; `tune(recipe, data)`
searches the fields of a recipe; `MolSAMRegressor` and `MolSAMClassifier` are recipes for
scikit-learn. Letters are fixed: N molecules, B batch, V atoms, E bonds, T tasks,
D width, H heads, L layers; w weights, g gradient, eps perturbation, rho radius, beta smoothing,
gamma decay.

Reading order: `training`, `epochs`, `runs`, `recipes`, `models.compt`, `optim.graphsam`,
`batches`, `molecules`, `datasets`, `tuning`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batches import Batch, PackedMolecules
    from .datasets import MoleculeTable, read_table
    from .estimators import MolSAMClassifier, MolSAMFeaturizer, MolSAMRegressor
    from .models import CoMPT, GraphTransformer
    from .molecules import InvalidMolecule
    from .optim import SAM, GraphSAM
    from .predictor import Predictor
    from .recipes import Recipe
    from .runs import Run
    from .training import fit, fit_repeats
    from .tuning import tune

    load = Run.load

# Where each public name lives: nothing heavy is imported before it is used.
_HOME = {
    "Batch": "batches",
    "CoMPT": "models",
    "GraphSAM": "optim",
    "GraphTransformer": "models",
    "InvalidMolecule": "molecules",
    "MolSAMClassifier": "estimators",
    "MolSAMFeaturizer": "estimators",
    "MolSAMRegressor": "estimators",
    "MoleculeTable": "datasets",
    "PackedMolecules": "batches",
    "Predictor": "predictor",
    "Recipe": "recipes",
    "Run": "runs",
    "SAM": "optim",
    "fit": "training",
    "fit_repeats": "training",
    "read_table": "datasets",
    "tune": "tuning",
}

__all__ = [
    "SAM",
    "Batch",
    "CoMPT",
    "GraphSAM",
    "GraphTransformer",
    "InvalidMolecule",
    "MolSAMClassifier",
    "MolSAMFeaturizer",
    "MolSAMRegressor",
    "MoleculeTable",
    "PackedMolecules",
    "Predictor",
    "Recipe",
    "Run",
    "fit",
    "fit_repeats",
    "load",
    "read_table",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name == "load":
        return import_module(".runs", __name__).Run.load
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
