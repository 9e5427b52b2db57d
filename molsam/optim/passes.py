"""What the second pass of a step shares with the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .generators import generator_states, set_generator_states
from .sharpness import SharpnessAware

# BatchNorm goes by the flag, InstanceNorm by the buffers.
UNTRACKED = {"track_running_stats": False, "running_mean": None, "running_var": None}


def count_statistics_once(optimizer: SharpnessAware, model: nn.Module) -> None:
    """BatchNorm's running statistics take in the first pass of a step only.

    In the second pass every layer still normalises by the batch before it, so gradients are those
    of SAM; only `running_mean`, `running_var` and `num_batches_tracked` stay. Layers in `eval`
    mode are left alone. Serves InstanceNorm and SyncBatchNorm too.
    """

    @contextmanager
    def context(call: int) -> Iterator[None]:
        tracking = [
            m
            for m in model.modules()
            if call != 0 and isinstance(m, _NormBase) and m.training and m.track_running_stats
        ]
        kept = [(m, name, getattr(m, name)) for m in tracking for name in UNTRACKED]
        for m, name, _ in kept:
            setattr(m, name, UNTRACKED[name])
        try:
            yield
        finally:
            for m, name, value in kept:
                setattr(m, name, value)

    optimizer.add_closure_context(context)


def repeat_dropout_masks(optimizer: SharpnessAware) -> None:
    """The second pass of a step draws what the first drew: the same dropout masks.

    Without it each pass draws afresh. torch's generators are set back, those of the CPU and of
    the devices with parameters; the random numbers of Python and NumPy are not.
    """
    drawn: dict[torch.device, Tensor] = {}

    @contextmanager
    def context(call: int) -> Iterator[None]:
        if call == 0:
            drawn.update(generator_states(p.device for p in optimizer.trainable()))
        elif call > 0:
            set_generator_states(drawn)
        yield

    optimizer.add_closure_context(context)
