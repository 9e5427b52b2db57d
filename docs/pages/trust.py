"""The table of docs/trust.md, from docs/studies/fuzz.csv."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from .text import DOCS, filled, line

PAGE = DOCS / "trust.md"
ROWS = DOCS / "studies" / "fuzz.csv"
BEGIN, END = "<!-- fuzz: make results -->", "<!-- end of fuzz -->"
HEADER = ["inputs", "", "worked", "refused", "faults", "slowest, s", "MiB", "minutes"]
SAID = {
    "smiles": "SMILES, read with all that is made of them",
    "table": "CSV, TSV and .smi files, compressed or not, read and checked",
    "sdf": "SD files, read and checked",
    "recipe": "recipes",
    "space": "search spaces",
    "run": "a run with one file changed, the seal made anew or not, loaded and predicting",
    "cache": "entries of the cache",
    "study": "studies, `tune.json` changed",
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page(text: str) -> str:
    """The page with the table of today's evidence."""
    return filled(text, BEGIN, ["\n".join(table(pd.read_csv(ROWS)))], END)


def table(rows: pd.DataFrame) -> Iterator[str]:
    """A line a target, and one for all."""
    yield line(HEADER)
    yield line(["---"] * len(HEADER))
    for name, said in SAID.items():
        yield _line(rows[rows["target"] == name], said)
    yield _line(rows, "all")


def _line(rows: pd.DataFrame, said: str) -> str:
    counts = (f"{rows[name].sum():,}" for name in ("worked", "refused", "faults"))
    most = f"{rows['slowest'].max():.1f}", f"{rows['mebibytes'].max():,}"
    return line(
        [f"{rows['inputs'].sum():,}", said, *counts, *most, f"{rows['seconds'].sum() / 60:.0f}"]
    )
