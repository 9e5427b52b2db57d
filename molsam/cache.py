"""What was worked out once, kept on disk under a hash of all it depends on.

An entry is a safetensors file of arrays behind its own SHA-256: nothing in it can execute, and one
that is damaged counts as absent. Every writer has a file of its own, renamed when whole, so that
any number of processes may read and write at once. A cache that cannot be written is left as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from safetensors import SafetensorError, numpy

from .files import replacing

_DIGEST = 32
_FORMAT = 1


def folder() -> Path:
    """Where the entries lie: in `$MOLSAM_CACHE`, else in the user's cache folder."""
    return Path(os.environ.get("MOLSAM_CACHE") or platformdirs.user_cache_dir("molsam")) / "made"


def key(content: Any) -> str:
    """The name of what `content` decides: values that JSON can hold, others by type and text."""
    text = json.dumps([_FORMAT, content], default=_described)
    return hashlib.sha256(text.encode()).hexdigest()


def _described(value: object) -> list[str]:
    return [type(value).__name__, repr(value)]


def load(name: str) -> dict[str, np.ndarray] | None:
    """The arrays that `save` kept under `name`; None where there are none, or they are damaged."""
    try:
        data = (folder() / name).read_bytes()
        digest, body = data[:_DIGEST], data[_DIGEST:]
    except OSError:
        return None
    if hashlib.sha256(body).digest() != digest:
        return None
    try:
        return {name: array.copy() for name, array in numpy.load(body).items()}
    except SafetensorError:
        return None


def save(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep arrays under `name`, where the disk allows it."""
    body = numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    with suppress(OSError):
        folder().mkdir(parents=True, exist_ok=True)
        with replacing(folder() / name) as partial:
            partial.write_bytes(hashlib.sha256(body).digest() + body)


def size() -> tuple[int, int]:
    """Entries and their bytes; what another process removes meanwhile is not counted."""
    sizes = []
    for path in _files():
        with suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return len(sizes), sum(sizes)


def clear() -> None:
    """Remove every entry, and what writers that were killed left behind."""
    for path in _files():
        path.unlink(missing_ok=True)


def _files() -> list[Path]:
    try:
        return [path for path in folder().iterdir() if path.is_file()]
    except OSError:  # no folder, or none any more
        return []
