"""The CSV of results: a row for each fit, added or replaced under a lock."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from ..files import write_atomic

OURS = "molsam"


class CompareError(ValueError):
    """What cannot be compared: says why, and what to try."""


class Row(NamedTuple):
    """One fit: scores by `metric`, sizes, wall seconds of the fit, what it was made with and when.

    `split` is a digest of the data and of the rows of all three parts; rows that share `task`,
    `protocol`, `seed` and `model` are one fit.
    """

    task: str
    protocol: str
    split: str
    seed: int
    model: str
    metric: str
    valid: float
    test: float
    n_train: int
    n_test: int
    seconds: float
    versions: str
    date: str

    @property
    def key(self) -> tuple[str, str, int, str]:
        return self.task, self.protocol, self.seed, self.model


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV that `add_rows` wrote; none where there is no file."""
    if not path.is_file():
        return []
    header, *lines = csv.reader(io.StringIO(path.read_text(encoding="utf-8") or "\n"))
    if tuple(header) != Row._fields:
        raise CompareError(
            f"{path} has other columns than {', '.join(Row._fields)}; name another file (out)"
        )
    return [_parse_row(path, number, line) for number, line in enumerate(lines, start=1)]


def add_rows(path: Path, rows: Sequence[Row]) -> None:
    """Add rows, in place of those of the same fits; writers take turns.

    A reader sees the file without them or with them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with FileLock(lock):
        every = {row.key: row for row in [*read_rows(path), *rows]}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(every.values())
        write_atomic(path, text.getvalue().encode())


def _parse_row(path: Path, number: int, line: list[str]) -> Row:
    types = (str, str, str, int, str, str, float, float, int, int, float, str, str)
    try:
        return Row._make(kind(cell) for kind, cell in zip(types, line, strict=True))
    except ValueError as error:
        raise CompareError(
            f"{path}: row {number} cannot be read ({error}); correct it, or name another file (out)"
        ) from error
