"""A pickle that leaves a mark when it is read."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import torch


class Trap:
    """Unpickled, it makes the folder `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def by_pickle(mark: Path) -> bytes:
    return pickle.dumps({"model": Trap(mark)})


def by_torch(mark: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"model": Trap(mark)}, file)
    return file.getvalue()


TRAPS = {"pickle": by_pickle, "torch": by_torch}


def spring(how: str, content: bytes) -> None:
    """Read it as its victim would: a trap that would not spring proves nothing."""
    if how == "pickle":
        pickle.loads(content)
    else:
        torch.load(io.BytesIO(content), weights_only=False)
