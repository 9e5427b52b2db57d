"""Processes that train one model together, as `torchrun` starts them: ranks, shares and sums.

    grad L = sum_r (m_r / m) grad L_r

L the mean loss over the m known labels of a batch, L_r that over the m_r labels of rank r's share.

A process alone is the first of one: `told` and `in_turn` call, and `add_up` gives back its loss.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")
PLACE = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
CPU = torch.device("cpu")


class Lost(ValueError):
    """Another process of the same training has failed or ended; its own words say why."""

    def __init__(self) -> None:
        super().__init__("another process of this training has ended: see what it said")


def join() -> None:
    """Take part in the process group that the environment describes, if it is not done yet.

    Tensors on CUDA go by NCCL, others by gloo; `cuda` is then the GPU number LOCAL_RANK.
    """
    if not distributed.is_available() or distributed.is_initialized():
        return
    if not os.environ.keys() >= PLACE or os.environ["WORLD_SIZE"] == "1":
        return
    gpu = torch.cuda.is_available()
    if gpu and (local := int(os.environ.get("LOCAL_RANK", 0))) < torch.cuda.device_count():
        torch.cuda.set_device(local)
    # Others wait while the first works alone; that one has died is for torchrun to see.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=timedelta(7))
    atexit.register(_leave)


def size() -> int:
    """How many processes train together."""
    joined = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if joined else 1


def rank() -> int:
    """The place of this process among them; the first is 0."""
    return distributed.get_rank() if size() > 1 else 0


def beside_first() -> tuple[int, ...]:
    """(rank,), or () in the first process: what its draws depend on beyond those of one alone."""
    return (rank(),) if rank() else ()


def told(work: Callable[..., T], *given: Any) -> T:
    """What `work(*given)` gives in the first process, which alone calls it, in all of them.

    Raises:
        Lost: in the others, where it fails in the first.
    """
    if size() == 1:
        return work(*given)
    if rank() > 0:
        done, found = _from_first((False, None))
        if not done:
            raise Lost
        return found
    try:
        found = work(*given)
    except Exception:
        _from_first((False, None))
        raise
    _from_first((True, found))
    return found


def in_turn(work: Callable[[], T]) -> T:
    """What `work` gives here, called in the first process before the others.

    So that they find what it has made: a file that it fetched, a folder, what is in the cache.
    """
    made: list[T] = []
    told(lambda: made.append(work()))
    return made[0] if rank() == 0 else work()


@contextmanager
def first_alone(manager: AbstractContextManager[None]) -> Iterator[None]:
    """`with manager` in the first process; the others go on once it has begun."""
    with ExitStack() as stack:
        told(stack.enter_context, manager)
        yield


def share(rows: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, float]:
    """This process's rows of a batch, and the part m_r / m of the batch's known labels in them.

    known -> known labels by row. Where the rows are too few for all, a process has one that counts
    for nothing, for it must be there when gradients are added up.
    """
    if size() == 1:
        return rows, 1.0
    mine = rows[rank() :: size()]
    if not len(mine):
        return rows[:1], 0.0
    return mine, float(known[mine].sum() / max(known[rows].sum(), 1))


def add_up(loss: Tensor, model: nn.Module) -> Tensor:
    """Put the sum of all processes' gradients into `model`; returns the sum of their losses."""
    if size() == 1:
        return loss
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([x.detach().reshape(-1) for x in (loss, *gradients)])
    with _together():
        distributed.all_reduce(flat)
    total, *parts = flat.split([1, *(g.numel() for g in gradients)])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return total.squeeze()


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _from_first(message: tuple[bool, Any]) -> tuple[bool, Any]:
    box = [message]
    with _together():
        distributed.broadcast_object_list(box, src=0, device=CPU)
    return box[0]


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's, whose connection is closed
        raise Lost from error
