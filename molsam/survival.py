"""Work in processes that may die of it: one item that is fatal costs the others nothing.

A worker has `SECONDS` of processor time for a chunk, and `BYTES` of memory. The items of a chunk
that ended its worker are worked on alone, one after the other; an item that ends its worker even
then is refused, and the reason told.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import joblib

SECONDS = 60
BYTES = 4 << 30

Item = TypeVar("Item")
Made = TypeVar("Made")
Work = Callable[[Sequence[Item]], Made]
Refused = Callable[[str], Made]


class WorkerError(ChildProcessError):
    """A worker process came to an end before its work."""


def together(
    work: Work[Item, Made],
    chunks: Sequence[Sequence[Item]],
    processes: int,
    refused: Refused[Made],
) -> Iterator[Made]:
    """What `work` makes of the chunks, in order, by worker processes that are at it already.

    A chunk that is fatal gives one result for each of its items, `refused(reason)` for some.

    Raises
    ------
    WorkerError : a process was killed from outside, most likely for want of memory.
    """
    return _go_on(_begun(work, chunks, processes), work, deque(chunks), processes, refused)


def alone(work: Work[Item, Made], item: Item, refused: Refused[Made]) -> Made:
    """What `work` makes of one item, with a worker for itself; `refused(reason)` if it is fatal."""
    try:
        (made,) = _begin(work, [[item]], 2)  # joblib starts none for one
    except MemoryError:
        return refused(f"RDKit needs more than {BYTES >> 30} GiB of memory for it")
    except BrokenExecutor as error:
        return refused(_reason(error))
    return made


def _go_on(
    begun: Iterable[Made],
    work: Work[Item, Made],
    todo: deque[Sequence[Item]],
    processes: int,
    refused: Refused[Made],
) -> Iterator[Made]:
    yield from _unbroken(begun, todo)
    while todo:
        # The chunk may be innocent: joblib raises before it hands out what is done already.
        yield from (alone(work, item, refused) for item in todo.popleft())
        yield from _unbroken(_begun(work, todo, processes), todo)


def _unbroken(begun: Iterable[Made], todo: deque[Sequence[Item]]) -> Iterator[Made]:
    """What comes before a chunk is fatal to a worker; `todo` keeps the chunks of the rest."""
    with suppress(BrokenExecutor, MemoryError):
        for made in begun:
            todo.popleft()
            yield made


def _begun(
    work: Work[Item, Made], chunks: Iterable[Sequence[Item]], processes: int
) -> Iterator[Made]:
    """`_begin`, or nothing if a worker ends before the last chunk is handed out."""
    with suppress(BrokenExecutor):
        return _begin(work, chunks, processes)
    return iter(())


def _begin(
    work: Work[Item, Made], chunks: Iterable[Sequence[Item]], processes: int
) -> Iterator[Made]:
    # joblib's workers stay for the next call, and need no `if __name__ == "__main__"`.
    pool: Any = joblib.Parallel(n_jobs=processes, return_as="generator")
    limits = {"caller": os.getpid(), "seconds": SECONDS, "memory": BYTES}
    limited = joblib.delayed(partial(_limited, work, **limits))
    return pool(limited(chunk) for chunk in list(chunks))


def _reason(error: BrokenExecutor) -> str:
    """Why the worker of a single item ended: loky's message names the signal."""
    if "SIGKILL" in str(error):
        raise WorkerError(
            "a process that was reading molecules was killed, most likely for want of memory; "
            "try again with fewer processes"
        ) from error
    late = "SIGPROF" in str(error)
    return f"RDKit does not finish it in {SECONDS} s" if late else "it ends RDKit's process"


def _limited(
    work: Work[Item, Made], chunk: Sequence[Item], *, caller: int, seconds: float, memory: int
) -> Made:
    if os.getpid() == caller:  # joblib starts no workers within some workers of others
        return work(chunk)
    faulthandler.disable()  # loky's; here an end is an answer
    with _limits(seconds, memory):
        return work(chunk)


@contextmanager
def _limits(seconds: float, memory: int) -> Iterator[None]:
    """The kernel ends this process after so much processor time, and lends it no more memory.

    Both are as they were afterwards: others may use the worker too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    within = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (within, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
