"""Work that some items are fatal to; in a module of its own, so that a worker imports no more."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence


def work(chunk: Sequence[str], own: int) -> list[str]:
    """The items of the chunk; never in the process `own`."""
    assert os.getpid() != own
    for item in chunk:
        if item in ("SIGSEGV", "SIGKILL"):
            os.kill(os.getpid(), getattr(signal, item))
        if item == "huge":
            bytearray(2 << 30)
        while item == "endless":
            pass
    return list(chunk)
