"""The command `molsam`, called in this process."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pandas as pd
import tiny

from molsam import cli

SMALL = [
    part
    for key, value in tiny.SMALL.items()
    if key != "training.epochs"
    for part in ("--set", f"{key}={str(value).lower()}")
]


class Result(NamedTuple):
    """Exit code, stdout and stderr."""

    code: int
    out: str
    err: str


def molsam(*words: object) -> Result:
    """`molsam word word ...` as the shell would run it, but without a terminal."""
    out, err = io.StringIO(), io.StringIO()
    arguments = ["molsam", *map(str, words)]
    code = 0
    with mock.patch.object(sys, "argv", arguments), redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
    return Result(code, out.getvalue(), err.getvalue())


def train(*words: object) -> Result:
    """`molsam train` with the tiny recipe; `--epochs` given twice is the last."""
    return molsam("train", *SMALL, "--epochs", tiny.SMALL["training.epochs"], *words)


def assert_refused(result: Result, *parts: str) -> None:
    """Exit code 2 and one sentence, the last line of stderr, with all `parts` in it."""
    lines = result.err.splitlines()
    assert result.code == 2, result
    assert lines[-1].startswith("molsam: "), result.err
    assert sum(line.startswith("molsam: ") for line in lines) == 1
    assert "Traceback" not in result.err
    for part in parts:
        assert part in lines[-1]


def write_table(path: Path, count: int = 60, **columns: Any) -> Path:
    """A CSV of `tiny.regression` with the columns id, smiles, pIC50 and those given."""
    table = tiny.regression(count)
    frame = pd.DataFrame({"id": range(count), "smiles": table.smiles, "pIC50": table.y[:, 0]})
    frame.assign(**columns).to_csv(path, index=False)
    return path
