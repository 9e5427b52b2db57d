"""Compares until SIGKILL: `python kill_compare.py CSV WHERE`, WHERE one of `PLACES`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import tiny

from molsam import comparison, files
from molsam.comparison import fitted

NAMES = ["svm-tanimoto", "svm-rbf"]
PLACES = ("in the third write", "after the third write", "in the third fit")


def die(*_: Any, **__: Any) -> NoReturn:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def third(function: Any, before: Any = die, after: Any = lambda: None) -> Any:
    """`function`, with what happens around its third call."""
    calls: list[int] = []

    def wrapped(*given: Any, **how: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            before(*given)
        result = function(*given, **how)
        if len(calls) == 3:
            after()
        return result

    return wrapped


def cut_short(partial: Path, path: Path) -> NoReturn:
    """Die with half of a file written."""
    Path(partial).write_bytes(Path(partial).read_bytes()[:100])
    die()


def prepare(where: str) -> None:
    """Have the process die there."""
    if where == "in the third write":
        files.os.replace = third(os.replace, cut_short)  # type: ignore[assignment]
    elif where == "after the third write":
        fitted.add_rows = third(fitted.add_rows, lambda *_: None, die)
    else:
        fitted.fit_baseline = third(fitted.fit_baseline)


def compare(path: Path) -> list[comparison.Row]:
    """Both machines on three seeds."""
    recipe, table = tiny.recipe(), tiny.regression()
    compared = comparison.Comparison.of(recipe, table, range(3), processes=1)
    return comparison.baseline_rows(compared, NAMES, path)


if __name__ == "__main__":
    prepare(sys.argv[2])
    compare(Path(sys.argv[1]))
