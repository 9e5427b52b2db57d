"""CoMPT word for word, to debug with: every molecule padded, a key for every pair of atoms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..batches import Batch
from .compt import CoMPT, CoMPTLayer, DistanceAttention
from .layers import Layout
from .readouts import GRUReadout


class DenseCoMPT(CoMPT):
    """`CoMPT` in its plain form: same parameters, same predictions, O(V^2 D) time and memory.

    As published, a batch is as wide as it is padded, and the padding takes part in every linear
    layer; each of the (V, V) bonds is embedded, and its key computed in every layer. Only the
    published update of the bonds, which never reaches an output, is left out.

    Examples
    --------
    >>> fast = CoMPT(115, 13, outputs=1, width=64)
    >>> plain = DenseCoMPT.of(fast)
    """

    @classmethod
    def of(cls, model: CoMPT) -> DenseCoMPT:
        """The plain form of `model`, with parameters of its own that are equal to the model's."""
        config = model.config.model_dump(exclude={"name"})
        sizes = model.atom_size, model.bond_size, model.outputs
        with torch.random.fork_rng([]):  # the fresh weights are drawn only to be replaced
            plain = cls(
                *sizes,
                descriptor_size=model.descriptor_size,
                fingerprint_size=model.fingerprint_size,
                **config,
            )
        first = next(model.parameters())
        plain.to(first.device, first.dtype).load_state_dict(model.state_dict())
        return plain.train(model.training)

    def _atom_states(self, batch: Batch, layout: Layout) -> Tensor:
        return self._padded_states(batch)[batch.mask]

    def _vectors(self, batch: Batch) -> Tensor:
        x = self._padded_states(batch)
        if isinstance(self.readout, GRUReadout):
            return gru_readout(self.readout, x, batch)
        total = (x * batch.mask[..., None]).sum(1)
        return total / batch.sizes[:, None] if self.config.readout == "mean" else total

    def _padded_states(self, batch: Batch) -> Tensor:
        """Atom states (B, V, D)."""
        scale = self.config.width**0.5
        atoms = batch.atoms.new_zeros(*batch.mask.shape, self.atom_size)
        atoms[batch.mask] = batch.atoms
        x = self.atom_embedding(atoms) * scale
        e = self.bond_embedding(batch.bonds[batch.pair_codes]) * scale
        if self.positions is not None:
            place = torch.arange(x.shape[1], device=x.device)
            x = x + self.positions(place.clamp(max=self.config.positions - 1))
        for layer in cast("Iterable[CoMPTLayer]", self.layers):
            x = layer.norm(x)
            h = x + layer.dropout(layer.norm(attention(layer.attention, x, e, batch)))
            x = x + h + layer.dropout(layer.norm(F.mish(layer.feed_forward(h))))
        return self.norm(x)


def attention(part: DistanceAttention, x: Tensor, e: Tensor, batch: Batch) -> Tensor:
    """The equations of `DistanceAttention` on atoms x (B, V, D) and bonds e (B, V, V, D)."""
    q, k, v = (
        y.unflatten(-1, (part.heads, -1)) for y in (part.query(x), part.key(e), part.value(x))
    )
    s = (q[:, :, None] * k).sum(-1) / q.shape[-1] ** 0.5
    s = s.masked_fill(~batch.mask[:, None, :, None], float("-inf"))
    kappa = fade(part, batch.distance, x.dtype)[..., None]
    twice = 2 - torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[..., None]
    a = part.dropout(twice * s.softmax(2) * kappa)
    m = torch.einsum("bijh,bjhc->bihc", a, v)
    return F.mish(part.out(m.flatten(2)))


def fade(part: DistanceAttention, distance: Tensor, dtype: torch.dtype) -> Tensor:
    """kappa(lambda d_ij), (B, V, V): 0 where there is no path."""
    path = distance >= 0
    kappa = torch.exp(-part.fading * distance.clamp(min=0)).to(dtype) * path
    if part.kernel == "exp":
        return kappa
    return kappa / kappa.sum(2, keepdim=True).clamp(min=torch.finfo(dtype).tiny)


def gru_readout(part: GRUReadout, x: Tensor, batch: Batch) -> Tensor:
    """The equations of `GRUReadout` on atoms x (B, V, D), by torch's own GRU."""
    padding = ~batch.mask[..., None]
    start = F.mish(x + part.bias).masked_fill(padding, float("-inf")).amax(1)
    packed = pack_padded_sequence(x, batch.sizes.cpu(), batch_first=True, enforce_sorted=False)
    y, _ = part.gru(packed, start.expand(2, -1, -1).contiguous())
    y, _ = pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
    return F.mish(part.linear(y)).masked_fill(padding, 0.0).sum(1) / batch.sizes[:, None]
