"""The tables of docs/trust.md, from docs/studies/kills.csv."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from .text import DOCS, filled, line

PAGE = DOCS / "trust.md"
KILLS = DOCS / "studies" / "kills.csv"
BEGIN, END = "<!-- kills: make results -->", "<!-- end of kills -->"
COMMANDS = {
    "train": "`molsam train`, `--resume`",
    "predict": "`molsam predict`",
    "tune": "a study of four trials",
    "study": "`run_study`, two variants",
    "fetch": "the download of a data set",
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page(text: str) -> str:
    """The page with the tables of today's evidence."""
    return filled(text, BEGIN, ["\n".join(kills(pd.read_csv(KILLS)))], END)


def kills(rows: pd.DataFrame) -> Iterator[str]:
    """A line a command, and their sum."""
    yield line(["what was killed", "kills", "brought to an end", "other than uninterrupted"])
    yield line(["---"] * 4)
    for row in rows.to_dict("records"):
        counts = [str(row[name]) for name in ("kills", "commands", "different")]
        yield line([COMMANDS[row["command"]], *counts])
    yield line(["all", *(str(rows[name].sum()) for name in ("kills", "commands", "different"))])
