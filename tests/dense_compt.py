"""CoMPT word for word: one molecule at a time, a key for every pair of atoms, a loop over steps.

The reference twin of `molsam.models.CoMPT`: it takes only the parameters from the model.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x, part):
    return x @ part.weight.T + part.bias


def normalise(x, part):
    if hasattr(part, "scale"):
        return part.scale * x / x.norm(dim=-1, keepdim=True)
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return part.weight * (x - mean) / torch.sqrt(variance + part.eps) + part.bias


def attention(x, e, d, part, config):
    """x (V, D), e (V, V, D), d (V, V) with -1 where there is no path."""
    q, k, v = linear(x, part.query), linear(e, part.key), linear(x, part.value)
    size = config.width // config.heads
    path = (d >= 0).to(x.dtype)
    if config.kernel == "exp":
        kappa = torch.exp(-part.fading * d) * path
    else:
        kappa = torch.exp(-part.fading * d) * path
        kappa = kappa / kappa.sum(1, keepdim=True)
    messages = []
    for h in range(config.heads):
        own = slice(h * size, (h + 1) * size)
        s = torch.einsum("id,ijd->ij", q[:, own], k[:, :, own]) / math.sqrt(size)
        a = (2 - torch.eye(len(x), dtype=x.dtype)) * torch.softmax(s, 1) * kappa
        messages.append(a @ v[:, own])
    return F.mish(linear(torch.cat(messages, 1), part.out))


def encode(model, atoms, bonds, d):
    """atoms (V, Fa), bonds (V, V, Fb), d (V, V) -> atom states (V, D)."""
    scale = math.sqrt(model.config.width)
    x = linear(atoms, model.atom_embedding) * scale
    e = linear(bonds, model.bond_embedding) * scale
    if model.config.positions:
        place = [min(i, model.config.positions - 1) for i in range(len(atoms))]
        x = x + model.positions.weight[place]
    for layer in model.layers:
        x = normalise(x, layer.norm)
        h = x + normalise(attention(x, e, d, layer.attention, model.config), layer.norm)
        x = x + h + normalise(F.mish(linear(h, layer.feed_forward)), layer.norm)
    return normalise(x, model.norm)


def gru(x, h, w, u, b, c):
    """One direction: x (V, D), h (D,) -> (V, D)."""
    states = []
    for row in x:
        (wr, wz, wn), (ur, uz, un) = (w @ row + b).chunk(3), (u @ h + c).chunk(3)
        r, z = torch.sigmoid(wr + ur), torch.sigmoid(wz + uz)
        h = (1 - z) * torch.tanh(wn + r * un) + z * h
        states.append(h)
    return torch.stack(states)


def read_out(model, x):
    """x (V, D) -> (D,)."""
    if model.config.readout != "gru":
        return x.mean(0) if model.config.readout == "mean" else x.sum(0)
    part = model.readout
    start = F.mish(x + part.bias).max(0).values
    ahead = gru(x, start, *part.gru.all_weights[0])
    back = gru(x.flip(0), start, *part.gru.all_weights[1]).flip(0)
    return F.mish(linear(torch.cat([ahead, back], 1), part.linear)).mean(0)


def predict(model, batch) -> tuple[Tensor, Tensor]:
    """Atom states (A, D) and predictions (B, outputs) of a batch, molecule by molecule."""
    first, inner_norm, last = model.head[0], model.head[2], model.head[4]
    states, predictions = [], []
    for i, atoms in enumerate(batch.atoms.split(batch.sizes.tolist())):
        n = len(atoms)
        bonds = batch.bonds[batch.pair_codes[i, :n, :n]]
        x = encode(model, atoms, bonds, batch.distance[i, :n, :n])
        m = torch.cat([read_out(model, x), batch.descriptors[i]])
        states.append(x)
        predictions.append(linear(normalise(F.mish(linear(m, first)), inner_norm), last))
    return torch.cat(states), torch.stack(predictions)
