"""What both models share: settings, and the way from a batch to a prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn

from ..batches import Batch
from .layers import Layout, NormName, head
from .readouts import ReadoutName, readout

if TYPE_CHECKING:
    from dgl import DGLGraph

Molecules: TypeAlias = "Batch | DGLGraph"


class ModelConfig(BaseModel):
    """Settings common to the models. Frozen; an unknown key or a value out of range is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(default=128, ge=1, description="D, the size of an atom's state")
    depth: int = Field(default=3, ge=1, le=1000, description="L, number of layers")
    heads: int = Field(default=4, ge=1, description="H, attention heads; divides width")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="probability, in layers and head")
    readout: ReadoutName = Field(
        default="mean",
        description="atoms to molecule; mean and sum do not depend on the order of atoms",
    )
    join_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="probability, on the molecule vector and what joins it"
    )
    fingerprint_dropout: float = Field(
        default=0.9, ge=0, lt=1, description="probability, on the counts of fingerprints"
    )
    head_layers: int = Field(
        default=2, ge=1, le=1000, description="linear layers from molecule vector to outputs"
    )
    head_width: PositiveInt | Literal["width"] = Field(
        default="width", description="of those between; width: D"
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelConfig:
        if self.width % self.heads:
            below = self.width - self.width % self.heads
            raise ValueError(
                f"width {self.width} is not divisible by heads {self.heads}; "
                f"try width = {below + self.heads}"
            )
        return self

    @property
    def head_size(self) -> int:
        """Width of the head between its first and its last layer."""
        return self.width if self.head_width == "width" else self.head_width


class MoleculeModel(nn.Module):
    """Atom states, a readout, what is known of the molecule joined to it, and a head.

    atom_size, bond_size -> lengths of the feature rows; outputs -> numbers predicted per molecule;
    descriptor_size, fingerprint_size -> together the length of `Batch.descriptors`, 0 for none.
    Fingerprints, which stand last there, are many columns: they join through a linear layer.

    Every method reads a `Batch`, or a (batched) DGLGraph with `ndata["h"]` and `edata["e"]`.
    """

    def __init__(
        self,
        atom_size: int,
        bond_size: int,
        outputs: int,
        config: ModelConfig,
        *,
        descriptor_size: int = 0,
        fingerprint_size: int = 0,
        norm_name: NormName = "layer",
    ):
        super().__init__()
        self.config = config
        self.atom_size, self.bond_size, self.outputs = atom_size, bond_size, outputs
        self.descriptor_size, self.fingerprint_size = descriptor_size, fingerprint_size
        self.embed_size = config.width + descriptor_size
        self.readout = readout(config.readout, config.width)
        if fingerprint_size:
            self.fingerprint = fingerprint_layer(fingerprint_size, config)
            self.embed_size += config.width
        self.join_dropout = nn.Dropout(config.join_dropout)
        self.head = head(
            self.embed_size,
            config.head_size,
            outputs,
            layers=config.head_layers,
            norm_name=norm_name,
            dropout=config.dropout,
        )

    def forward(self, batch: Molecules) -> Tensor:
        """Predictions (B, outputs)."""
        return self.head(self.join_dropout(self.embed(batch)))

    def embed(self, batch: Molecules) -> Tensor:
        """Molecule vectors (B, embed_size): the readout, descriptors, embedded fingerprints."""
        batch = self._read(batch)
        return self.join(self._vectors(batch), batch)

    def learnt(self, batch: Molecules) -> Tensor:
        """`embed` without the descriptors, (B, embed_size - descriptor_size)."""
        size = self.config.width
        vectors = self.embed(batch)
        return torch.cat([vectors[:, :size], vectors[:, size + self.descriptor_size :]], dim=1)

    def join(self, vectors: Tensor, batch: Batch) -> Tensor:
        """What the readout gave (B, D), and beside it all else that is known (B, embed_size)."""
        descriptors, counts = batch.descriptors.to(vectors.dtype).split(
            [self.descriptor_size, self.fingerprint_size], dim=1
        )
        joined = [vectors, descriptors]
        if self.fingerprint_size:
            joined.append(self.fingerprint(counts))
        return torch.cat(joined, dim=1)

    def encode(self, batch: Molecules) -> Tensor:
        """Atom states (A, D), molecule after molecule."""
        batch = self._read(batch)
        return self._atom_states(batch, self._layout(batch))

    def _vectors(self, batch: Batch) -> Tensor:
        layout = self._layout(batch)
        return self.readout(self._atom_states(batch, layout), layout)

    def _atom_states(self, batch: Batch, layout: Layout) -> Tensor:
        raise NotImplementedError

    def _layout(self, batch: Batch) -> Layout:
        return Layout.of(batch.sizes, batch.mask, batch.slots, self.config.heads)

    def _read(self, batch: Molecules) -> Batch:
        if not isinstance(batch, Batch):
            batch = Batch.from_dgl(batch, bond_size=self.bond_size)
            batch = batch.to(next(self.parameters()).device)
        joined = self.descriptor_size + self.fingerprint_size
        built_for = (self.atom_size, self.bond_size, joined)
        found = (batch.atoms.shape[1], batch.bonds.shape[1], batch.descriptors.shape[1])
        if found != built_for:
            raise ValueError(
                f"the batch has {_sizes(*found)}, the model was built for {_sizes(*built_for)}; "
                "take the featurizer and descriptors it was built for, or build it for these"
            )
        return batch


def fingerprint_layer(size: int, config: ModelConfig) -> nn.Module:
    """Log counts c (B, size) -> (B, D): Dropout(Mish(W Dropout(c) + b)).

    Most of the counts are dropped in training: as they are, a few epochs learn them by heart.
    """
    return nn.Sequential(
        nn.Dropout(config.fingerprint_dropout),
        nn.Linear(size, config.width),
        nn.Mish(),
        nn.Dropout(config.dropout),
    )


def _sizes(atom: int, bond: int, descriptors: int) -> str:
    return f"{atom} atom features, {bond} bond features and {descriptors} descriptors"
