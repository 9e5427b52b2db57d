"""Learning-rate schedules: the factor on a base learning rate as a function of time.

Each takes `t`, the share of training done in [0, 1], and `warmup`, the share that warms up.
They have no state, so a run resumed at `t` continues exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float, float], float]


def constant(t: float, warmup: float) -> float:
    """`min(1, t / warmup)`."""
    return min(1.0, t / warmup) if warmup > 0 else 1.0


def noam(t: float, warmup: float, low: float = 0.1) -> float:
    """Linear from `low` to 1 in the warm-up, then exponential back to `low`.

    The schedule of the GraphSAM paper's runs: 1e-4 to 1e-3 in two epochs and back to 1e-4.
    """
    if t < warmup:
        return low + (1.0 - low) * t / warmup
    return low ** ((t - warmup) / (1.0 - warmup)) if warmup < 1 else 1.0


def one_cycle(t: float, warmup: float, start: float = 0.04, end: float = 1e-4) -> float:
    """Half a cosine from `start` to 1 in the warm-up, another from 1 to `end` after it.

    Smith and Topin, "Super-Convergence" (arXiv 1708.07120), with the cosine form that
    `torch.optim.lr_scheduler.OneCycleLR` uses and its default ends.
    """
    if t < warmup:
        return _cosine(start, 1.0, t / warmup)
    return _cosine(1.0, start * end, (t - warmup) / (1.0 - warmup) if warmup < 1 else 0.0)


def cosine(t: float, warmup: float) -> float:
    """Linear to 1 in the warm-up, then half a cosine to 0 (Loshchilov and Hutter, 1608.03983)."""
    if t < warmup:
        return t / warmup
    return _cosine(1.0, 0.0, (t - warmup) / (1.0 - warmup) if warmup < 1 else 0.0)


def _cosine(start: float, end: float, t: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * min(t, 1.0))) / 2.0


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "noam": noam,
    "one_cycle": one_cycle,
    "cosine": cosine,
}
