"""The tables of docs/trust.md, from docs/studies: kills.csv, mutants.csv and survivors.csv."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from .text import DOCS, filled, line

PAGE = DOCS / "trust.md"
KILLS = DOCS / "studies" / "kills.csv"
BEGIN, END = "<!-- kills: make results -->", "<!-- end of kills -->"
MUTANTS, SURVIVORS = DOCS / "studies" / "mutants.csv", DOCS / "studies" / "survivors.csv"
MUTANTS_BEGIN, MUTANTS_END = "<!-- mutants: make results -->", "<!-- end of mutants -->"
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
    text = filled(text, BEGIN, ["\n".join(kills(pd.read_csv(KILLS)))], END)
    rows = mutants(pd.read_csv(MUTANTS), pd.read_csv(SURVIVORS))
    return filled(text, MUTANTS_BEGIN, ["\n".join(rows)], MUTANTS_END)


def kills(rows: pd.DataFrame) -> Iterator[str]:
    """A line a command, and their sum."""
    yield line(["what was killed", "kills", "brought to an end", "other than uninterrupted"])
    yield line(["---"] * 4)
    for row in rows.to_dict("records"):
        counts = [str(row[name]) for name in ("kills", "commands", "different")]
        yield line([COMMANDS[row["command"]], *counts])
    yield line(["all", *(str(rows[name].sum()) for name in ("kills", "commands", "different"))])


def mutants(counts: pd.DataFrame, survivors: pd.DataFrame) -> Iterator[str]:
    """A line for each module of molsam, those of the optimizers together."""
    yield line(["module", "mutants", "judged", "noticed", "share", "not noticed", "no change"])
    yield line(["---"] * 7)
    same = survivors[survivors["equivalent"] == "yes"].groupby("module").size()
    counts = counts.assign(same=counts["module"].map(same).fillna(0).astype(int))
    for module, row in counts.groupby(counts["module"].str.split(".").str[1]).sum().iterrows():
        noticed = row["judged"] - row["survived"]
        numbers = [row["mutants"], row["judged"], noticed, f"{noticed / row['judged']:.0%}"]
        numbers += [row["survived"], row["same"]]
        yield line([f"`{module}`", *map(str, numbers)])
