"""What a run is trained on and judged by: the recipe's loss and metric, or the usual ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from . import losses, metrics
from .batches import PackedMolecules
from .datasets import Kind
from .recipes import TrainingConfig
from .runs import Run
from .splits import Split


class TrainingError(ValueError):
    """Training cannot start or go on: says where it stood and what to try."""


def metric_name(settings: TrainingConfig, kind: Kind) -> str:
    """The recipe's metric, or the usual one of the kind."""
    name = settings.metric or metrics.default_metric(kind)
    served = [m for m, metric in metrics.METRICS.items() if kind in metric.kinds]
    if name not in served:
        raise TrainingError(
            f"training.metric {name!r} does not serve {kind} targets; use {', '.join(served)}"
        )
    return name


def loss_name(settings: TrainingConfig, kind: Kind) -> str:
    """The recipe's loss, or the usual one of the kind."""
    name = settings.loss or losses.default_loss(kind)
    served = [loss for loss, its in losses.KINDS.items() if its == kind]
    if name not in served:
        raise TrainingError(
            f"training.loss {name!r} does not serve {kind} targets; use {', '.join(served)}"
        )
    return name


def pick_loss(
    run: Run, packed: PackedMolecules, split: Split
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The recipe's loss, or the usual one of the kind; weighted by class where asked."""
    kind, settings = run.info.kind, run.recipe.training
    loss = losses.LOSSES[loss_name(settings, kind)]
    y = packed.y[split.train]
    if settings.class_weights and kind == "binary":
        weights = losses.positive_weights(y, ~torch.isnan(y)).to(run.device)
        loss = partial(loss, pos_weight=weights)
    if settings.class_weights and kind == "multiclass":
        counts = torch.bincount(y[~torch.isnan(y)].long(), minlength=len(run.info.classes))
        weights = counts.sum() / (len(counts) * counts.clamp(min=1))
        loss = partial(loss, weight=weights.to(run.device))
    if kind == "multiclass":
        tasks = len(run.info.tasks)
        return lambda z, y, mask: loss(z.unflatten(-1, (tasks, -1)), y, mask)
    return loss
