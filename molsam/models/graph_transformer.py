"""The DGL graph transformer, or Graphormer (Ying et al., NeurIPS 2021, arXiv 2106.05234)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..batches import Batch
from .base import ModelConfig, MoleculeModel
from .layers import Layout

ActivationName = Literal["relu", "gelu"]


class GraphTransformerConfig(ModelConfig):
    """Settings of `GraphTransformer`."""

    name: Literal["graph_transformer"] = Field(
        default="graph_transformer", description="which model this is"
    )
    feed_forward: int = Field(default=512, ge=1, description="width inside the feed-forward part")
    attention_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="probability, on attention"
    )
    activation: ActivationName = Field(default="relu", description="inside the feed-forward part")
    norm_first: bool = Field(
        default=True, description="normalise before attention and feed-forward, rather than after"
    )
    max_degree: int = Field(
        default=8, ge=1, description="atoms with more bonds count as having this many"
    )
    max_distance: int = Field(
        default=20, ge=1, description="longer paths, in bonds, count as this long"
    )


class BiasedAttention(nn.Module):
    """m_i = sum_j softmax_j(q_i . k_j / sqrt(D / H) + b_ij) v_j, as `dgl.nn.BiasedMHA` adds b.

    b -> `bias` (B, H, V, V), -inf where atom j is padding. Parameters have DGL's names.
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        for part in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(part.weight, gain=2**-0.5)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, bias: Tensor, layout: Layout) -> Tensor:
        """Atoms x (A, D) -> (A, D)."""
        q, k, v = (
            layout.pad_heads(part(x).unflatten(-1, (self.heads, -1))).unflatten(0, (-1, self.heads))
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        attend = attention if x.device.type == "cpu" else F.scaled_dot_product_attention
        m = attend(q, k, v, bias.to(q.dtype), dropout)
        return self.out_proj(layout.pack_heads(m.flatten(0, 1)))


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """softmax(q k^T / sqrt(C) + b) v, all (B, H, V, C) but `bias` (B, H, V, V).

    torch's fused kernel for the CPU has no gradient for a bias; what `scaled_dot_product_attention`
    runs in its stead takes a tenth to two fifths longer at the size of molecules.
    """
    heads = q.shape[:2]
    q, k, v, bias = (part.flatten(0, 1) for part in (q, k, v, bias))
    s = torch.baddbmm(bias, q * q.shape[-1] ** -0.5, k.mT)
    a = s.softmax(-1)
    a = F.dropout(a, dropout) if dropout else a
    return torch.bmm(a.to(v.dtype), v).unflatten(0, heads)


class GraphTransformerLayer(nn.Module):
    """x <- x + attention(N(x)); x <- x + FFN(N(x)), or with N after each sum if not `norm_first`.

    Equal to `dgl.nn.GraphormerLayer`, whose `state_dict` loads here unchanged.
    """

    def __init__(self, config: GraphTransformerConfig):
        super().__init__()
        activation = {"relu": nn.ReLU, "gelu": nn.GELU}[config.activation]
        self.norm_first = config.norm_first
        self.attn = BiasedAttention(config.width, config.heads, config.attention_dropout)
        self.ffn = nn.Sequential(
            nn.Linear(config.width, config.feed_forward),
            activation(),
            nn.Dropout(config.dropout),
            nn.Linear(config.feed_forward, config.width),
            nn.Dropout(config.dropout),
        )
        self.dropout = nn.Dropout(config.dropout)
        self.attn_layer_norm = nn.LayerNorm(config.width)
        self.ffn_layer_norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, bias: Tensor, layout: Layout) -> Tensor:
        """Atoms x (A, D), bias (B, H, V, V) -> (A, D)."""
        if self.norm_first:
            x = x + self.dropout(self.attn(self.attn_layer_norm(x), bias, layout))
            return x + self.ffn(self.ffn_layer_norm(x))
        x = self.attn_layer_norm(x + self.dropout(self.attn(x, bias, layout)))
        return self.ffn_layer_norm(x + self.ffn(x))


class GraphTransformer(MoleculeModel):
    """Full attention between the atoms of a molecule, biased by their distance and their bond.

    x_i = W a_i + b + z(deg i);   b_ij = phi(d_ij) + U e_ij   (eqs. 5 and 6 of the paper)

    a_i -> atom features; z -> `degree_embedding`, as `dgl.nn.DegreeEncoder`, degree 0 reads 0;
    phi -> `distance_embedding`, as `dgl.nn.SpatialEncoder`, no path reads 0; e_ij -> bond
    features, zeros for no bond.
    Deviation: the paper averages edge features along the shortest path (eq. 7); here a bond biases
    the pair it joins, so that no path is stored.

    Examples
    --------
    >>> model = GraphTransformer(74, 12, outputs=1, width=64, heads=8)
    >>> model.config.readout
    'mean'
    """

    config: GraphTransformerConfig

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
        settings = GraphTransformerConfig(**config)
        super().__init__(
            atom_size,
            bond_size,
            outputs,
            settings,
            descriptor_size=descriptor_size,
            fingerprint_size=fingerprint_size,
        )
        width, heads = settings.width, settings.heads
        self.atom_embedding = nn.Linear(atom_size, width)
        self.degree_embedding = _table(settings.max_degree + 1, width)
        self.distance_embedding = _table(settings.max_distance + 2, heads)
        self.bond_bias = nn.Linear(bond_size, heads, bias=False)
        self.layers = nn.ModuleList(GraphTransformerLayer(settings) for _ in range(settings.depth))
        self.norm = nn.LayerNorm(width) if settings.norm_first else nn.Identity()

    def _atom_states(self, batch: Batch, layout: Layout) -> Tensor:
        bias = self._bias(batch)
        degree = (batch.distance == 1).sum(-1).flatten().index_select(0, layout.slots)
        degree = degree.clamp(max=self.config.max_degree)
        x = self.atom_embedding(batch.atoms) + self.degree_embedding(degree)
        with _learns_bias(x):
            for layer in self.layers:
                x = layer(x, bias, layout)
        return self.norm(x)

    def _bias(self, batch: Batch) -> Tensor:
        """(B, H, V, V) attention bias, -inf towards padding."""
        distance = batch.distance.clamp(max=self.config.max_distance) + 1
        no_path, paths = self.distance_embedding.weight.split([1, self.config.max_distance + 1])
        phi = torch.cat([no_path.detach(), paths])
        bias = _spread(phi, distance) + _spread(self.bond_bias(batch.bonds), batch.pair_codes)
        return bias.masked_fill(~batch.mask[:, None, None], float("-inf"))


def _spread(table: Tensor, codes: Tensor) -> Tensor:
    """Rows of `table` (K, H) at `codes` (B, V, V), laid out (B, H, V, V)."""
    count, heads = codes.shape[0], table.shape[1]
    places = codes.flatten(1)[:, None].expand(-1, heads, -1)
    found = table.T.expand(count, -1, -1).gather(2, places)
    return found.unflatten(2, codes.shape[1:])


def _learns_bias(x: Tensor) -> AbstractContextManager[object]:
    """No attention of cuDNN's, which torch prefers on Hopper and which has no gradient for b."""
    if not x.is_cuda or not torch.backends.cuda.mem_efficient_sdp_enabled():
        return nullcontext()
    return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def _table(rows: int, width: int) -> nn.Embedding:
    table = nn.Embedding(rows, width, padding_idx=0)
    nn.init.normal_(table.weight[1:], std=0.02)
    return table
