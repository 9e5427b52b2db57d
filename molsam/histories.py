"""What is written of every epoch: `history.csv`, and the files of TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import distributed
from .files import write_atomic


def write_history(folder: Path, history: list[dict[str, Any]]) -> None:
    """`history.csv`, one row an epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_atomic(folder / "history.csv", text.getvalue().encode())


@contextmanager
def tensorboard(folder: Path, epoch: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that adds a row of the history to TensorBoard's files, where it is installed.

    What an interrupted run wrote from `epoch` on is marked as replaced. These files repeat the
    history: where they cannot be written, training goes on, or ends by the error of its own.
    """
    if find_spec("tensorboard") is None or distributed.rank() > 0:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=epoch + 1)

    def add(row: dict[str, Any]) -> None:
        with suppress(OSError):
            for name in row.keys() - {"epoch", "kept"}:
                writer.add_scalar(name, row[name], row["epoch"])
            writer.flush()

    interrupted = False
    try:
        yield add
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        if not interrupted:  # its queue stays locked if the interrupt struck inside it
            with suppress(OSError):
                writer.close()
