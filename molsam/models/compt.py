"""CoMPT: attention along bonds that fades with distance (Chen et al. 2021, arXiv 2107.08773)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..batches import Batch
from . import published
from .base import ModelConfig, MoleculeModel
from .layers import Layout, NormName, norm
from .mish import mish

KernelName = Literal["exp", "softmax"]


class CoMPTConfig(ModelConfig):
    """Settings of `CoMPT`."""

    name: Literal["compt"] = Field(default="compt", description="which model this is")
    kernel: KernelName = Field(default="exp", description="how attention fades with distance")
    norm: NormName = Field(default="layer", description="layer norm, or one scale and unit length")
    fading: float = Field(
        default=1.0, ge=0, description="lambda at the start: attention fades by e^-lambda a bond"
    )
    positions: int = Field(
        default=0,
        ge=0,
        description="learned embeddings of an atom's place in the canonical order; 0: none",
    )


class Pairs(NamedTuple):
    """The pairs of atoms of a batch, as every layer needs them: a row (A, V) for each real atom.

    codes -> rows of the bond table; padding -> 0 on atoms, -inf on padding; distance -> in bonds,
    0 where there is no path; factor -> 2 - delta_ij, 0 where there is no path.
    """

    codes: Tensor
    padding: Tensor
    distance: Tensor
    factor: Tensor

    @classmethod
    def of(cls, batch: Batch, layout: Layout) -> Pairs:
        """The pairs of `batch`, in the precision of its features."""
        width, dtype = batch.mask.shape[1], batch.atoms.dtype
        codes, distance = (
            pairs.flatten(0, 1).index_select(0, layout.slots)
            for pairs in (batch.pair_codes, batch.distance)
        )
        real = batch.mask.index_select(0, layout.home)
        itself = layout.place[:, None] == torch.arange(width, device=layout.place.device)
        twice = torch.where(itself, 1, 2)
        return cls(
            codes=codes,
            padding=torch.zeros_like(real, dtype=dtype).masked_fill(~real, float("-inf")),
            distance=distance.clamp(min=0).to(dtype),
            factor=(twice * (distance >= 0)).to(dtype),
        )


class DistanceAttention(nn.Module):
    """Attention of atoms to atoms whose keys are the bonds between them.

    s_ij = q_i . k(e_ij) / sqrt(D / H)
    A_ij = (2 - delta_ij) softmax_j(s_ij) kappa(lambda d_ij),   m_i = sum_j A_ij v_j

    kappa(t) -> exp(-t) or softmax_j(-t), 0 where no path joins i and j; lambda -> `fading`;
    e_ij -> one of K bond rows, so q_i . k(e_ij) is looked up in a `table` (A, H, K) and no
    (V, V, D) tensor is ever built. The factor 2 - delta_ij is the published sum of outgoing and
    incoming attention less its diagonal, for bonds that read alike in both directions.
    """

    def __init__(self, width: int, heads: int, kernel: KernelName, dropout: float, fading: float):
        super().__init__()
        self.heads, self.kernel = heads, kernel
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.fading = nn.Parameter(torch.tensor(fading))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bonds: Tensor, pairs: Pairs, layout: Layout) -> Tensor:
        """Atoms x (A, D), embedded bonds (K, D) -> Mish(W m + b) (A, D)."""
        v = self.value(x).unflatten(-1, (self.heads, -1))
        table = self.table(x, bonds)
        s = table.gather(2, pairs.codes[:, None].expand(-1, self.heads, -1))
        a = (s + pairs.padding[:, None]).softmax(-1) * self.fade(pairs)[:, None]
        m = torch.bmm(layout.pad_heads(self.dropout(a).to(v.dtype)), layout.pad_heads(v))
        return mish(self.out(layout.pack_heads(m)))

    def table(self, x: Tensor, bonds: Tensor) -> Tensor:
        """q_i . k(e) / sqrt(D / H) of every atom and kind of bond, (A, H, K).

        q . k = x . (Wq^T k) + bq . k is a linear layer of H K outputs on the atoms, formed from
        the keys; where it would be wider than the queries are, those are formed first.
        """
        k = self.key(bonds).unflatten(-1, (self.heads, -1)).transpose(0, 1)
        k = k * k.shape[-1] ** -0.5
        if self.heads * bonds.shape[0] > x.shape[1]:
            q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(0, 1)
            return torch.bmm(q, k.mT).transpose(0, 1)
        W, b = (p.unflatten(0, (self.heads, -1)) for p in (self.query.weight, self.query.bias))
        weight, bias = torch.bmm(k, W), (k * b[:, None]).sum(-1)
        scores = F.linear(x, weight.flatten(0, 1), bias.flatten())
        return scores.unflatten(-1, bias.shape)

    def fade(self, pairs: Pairs) -> Tensor:
        """(2 - delta_ij) kappa(lambda d_ij), (A, V)."""
        t = -self.fading * pairs.distance
        if self.kernel == "exp":
            return pairs.factor * t.exp()
        lowest = torch.finfo(t.dtype).min
        return pairs.factor * t.masked_fill(pairs.factor == 0, lowest).softmax(-1)


class CoMPTLayer(nn.Module):
    """x <- N(x);  h = x + N(attention(x));  return x + h + N(Mish(W h + b)), with one norm N."""

    def __init__(self, config: CoMPTConfig):
        super().__init__()
        self.norm = norm(config.norm, config.width)
        self.attention = DistanceAttention(
            config.width, config.heads, config.kernel, config.dropout, config.fading
        )
        self.feed_forward = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bonds: Tensor, pairs: Pairs, layout: Layout) -> Tensor:
        x = self.norm(x)
        h = x + self.dropout(self.norm(self.attention(x, bonds, pairs, layout)))
        return x + h + self.dropout(self.norm(mish(self.feed_forward(h))))


class CoMPT(MoleculeModel):
    """Communicative message passing transformer.

    x_i = sqrt(D) (W a_i + b) + p_i,  e_ij = sqrt(D) (W' b_ij + b'),  then L layers and a norm

    a_i -> atom features, b_ij -> bond features (zeros for no bond), p_i -> embedding of the place
    of atom i in the canonical order, if `positions` > 0 (later atoms share the last one).
    Deviation: the published readout sums padding, so its prediction depends on the padding's
    width; here padding is never read.

    Examples
    --------
    >>> model = CoMPT(115, 13, outputs=1, width=64, readout="mean")
    >>> model.config.depth
    3
    """

    config: CoMPTConfig

    def __init__(
        self,
        atom_size: int,
        bond_size: int,
        outputs: int,
        *,
        descriptor_size: int = 0,
        fingerprint_size: int = 0,
        **config: Any,
    ):
        settings = CoMPTConfig(**config)
        super().__init__(
            atom_size,
            bond_size,
            outputs,
            settings,
            descriptor_size=descriptor_size,
            fingerprint_size=fingerprint_size,
            norm_name=settings.norm,
        )
        width = settings.width
        self.atom_embedding = nn.Linear(atom_size, width)
        self.bond_embedding = nn.Linear(bond_size, width)
        self.positions = nn.Embedding(settings.positions, width) if settings.positions else None
        self.layers = nn.ModuleList(CoMPTLayer(settings) for _ in range(settings.depth))
        self.norm = norm(settings.norm, width)
        for part in (self.atom_embedding, self.bond_embedding, self.layers):
            part.apply(_initialise)

    def _atom_states(self, batch: Batch, layout: Layout) -> Tensor:
        pairs = Pairs.of(batch, layout)
        scale = self.config.width**0.5
        bonds = self.bond_embedding(batch.bonds) * scale
        x = self.atom_embedding(batch.atoms) * scale
        if self.positions is not None:
            x = x + self.positions(layout.place.clamp(max=self.config.positions - 1))
        for layer in self.layers:
            x = layer(x, bonds, pairs, layout)
        return self.norm(x)

    @classmethod
    def from_published(cls, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> CoMPT:
        """The published model from its parameters and configuration, under their published names.

        The published bond update (`self_attn.linears.4`) never reaches an output and is dropped.
        Raises `ValueError` naming the keys that are missing, unexpected or of another shape, and
        the settings that are not supported.
        """
        model = cls(**published.settings(config))
        model.load_state_dict(published.parameters(model, weights))
        return model


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
