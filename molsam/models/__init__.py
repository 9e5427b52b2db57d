"""Models of molecules: a `Batch` or a (batched) DGLGraph in, predictions (B, T) out."""

from __future__ import annotations

from .base import ModelConfig, MoleculeModel
from .compt import CoMPT, CoMPTConfig
from .dense import DenseCoMPT
from .graph_transformer import GraphTransformer, GraphTransformerConfig

MODELS: dict[str, type[CoMPT] | type[GraphTransformer]] = {
    "compt": CoMPT,
    "graph_transformer": GraphTransformer,
}
"""The models by the name that a recipe calls them."""

__all__ = [
    "MODELS",
    "CoMPT",
    "CoMPTConfig",
    "DenseCoMPT",
    "GraphTransformer",
    "GraphTransformerConfig",
    "ModelConfig",
    "MoleculeModel",
]
