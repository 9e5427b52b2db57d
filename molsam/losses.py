"""Losses: the mean over the labels that are known.

    loss = (1 / |M|) sum_{(b, t) in M} l(prediction_bt, y_bt),   M the entries where `mask` is true

`prediction -> (B, T)` in scaled space (z-scored targets, logits), `y -> (B, T)`, `mask -> (B, T)`
bool. An entry outside the mask reaches neither the loss nor the gradient, whatever it holds, NaN
included. A batch without a known label gives 0, with a gradient of zeros. Half-precision
predictions are averaged in float32. Shapes that do not match raise ValueError.

`LOSSES` names them, `KINDS` says which kind of target each serves. Weights are bound with
`functools.partial`:

    loss = partial(bce, pos_weight=positive_weights(y, mask))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Kind = Literal["regression", "binary", "multiclass"]


def mse(prediction: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Squared error: l(p, y) = (p - y)^2."""
    prediction, y = _known(prediction, y, mask)
    return _mean(F.mse_loss(prediction, y, reduction="none"), mask)


def mae(prediction: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Absolute error: l(p, y) = |p - y|."""
    prediction, y = _known(prediction, y, mask)
    return _mean(F.l1_loss(prediction, y, reduction="none"), mask)


def huber(prediction: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Huber's error with delta = 1, one standard deviation of a scaled target.

    l(p, y) = (p - y)^2 / 2 where |p - y| <= 1, |p - y| - 1/2 elsewhere.
    """
    prediction, y = _known(prediction, y, mask)
    return _mean(F.huber_loss(prediction, y, reduction="none"), mask)


def bce(prediction: Tensor, y: Tensor, mask: Tensor, *, pos_weight: Tensor | None = None) -> Tensor:
    """Binary cross entropy: l(z, y) = -c y log s(z) - (1 - y) log(1 - s(z)), s the sigmoid.

    z -> prediction, logits; y -> y, 0 or 1; c -> pos_weight (T,), 1 if absent.
    """
    prediction, y = _known(prediction, y, mask)
    losses = F.binary_cross_entropy_with_logits(
        prediction, y, pos_weight=pos_weight, reduction="none"
    )
    return _mean(losses, mask)


def cross_entropy(
    prediction: Tensor, y: Tensor, mask: Tensor, *, weight: Tensor | None = None
) -> Tensor:
    """Cross entropy: l(z, y) = -a_y log softmax(z)_y.

    z -> prediction (B, T, C), logits; y -> y (B, T), class index; a -> weight (C,), 1 if absent.
    Weighted or not, the sum is divided by the number of known labels, not by their weights.
    """
    prediction, y = _known(prediction, y, mask)
    losses = F.cross_entropy(prediction.movedim(-1, 1), y.long(), weight=weight, reduction="none")
    return _mean(losses, mask)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": mse,
    "mae": mae,
    "huber": huber,
    "bce": bce,
    "cross_entropy": cross_entropy,
}

KINDS: dict[str, Kind] = {
    "mse": "regression",
    "mae": "regression",
    "huber": "regression",
    "bce": "binary",
    "cross_entropy": "multiclass",
}


def default_loss(kind: Kind) -> str:
    """The name of the loss a kind of target is trained with unless told otherwise."""
    return {"regression": "mse", "binary": "bce", "multiclass": "cross_entropy"}[kind]


def positive_weights(y: Tensor, mask: Tensor) -> Tensor:
    """c_t = (known negatives of task t) / (known positives), for `bce`; 1 for one-class tasks.

    y -> (N, T), 0 or 1; mask -> (N, T) bool; result (T,) float32.
    """
    positives = ((y == 1) & mask).sum(0)
    negatives = ((y == 0) & mask).sum(0)
    both = (positives > 0) & (negatives > 0)
    return torch.where(both, negatives / positives, 1.0)


def _known(prediction: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float32 or wider, 0 where unknown: NaN times a zero gradient would stay NaN."""
    if not prediction.shape[: y.ndim] == y.shape == mask.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (prediction, y, mask))
        raise ValueError(f"prediction, y and mask must agree in (B, T); their shapes are {shapes}")
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    seen = mask.view(mask.shape + (1,) * (prediction.ndim - mask.ndim))
    return torch.where(seen, prediction, 0).to(dtype), torch.where(mask, y, 0).to(dtype)


def _mean(losses: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, losses, 0).sum() / mask.sum().clamp(min=1)
