"""The tables of docs/trust.md, from docs/studies: kills, fuzz, mutants and survivors (CSV)."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from .text import DOCS, filled, line

PAGE = DOCS / "trust.md"
KILLS = DOCS / "studies" / "kills.csv"
FUZZ = DOCS / "studies" / "fuzz.csv"
MUTANTS, SURVIVORS = DOCS / "studies" / "mutants.csv", DOCS / "studies" / "survivors.csv"
COMMANDS = {
    "train": "`molsam train`, `--resume`",
    "predict": "`molsam predict`",
    "tune": "a study of four trials",
    "study": "`run_study`, two variants",
    "fetch": "the download of a data set",
}
INPUTS = {
    "smiles": "SMILES: graph, fingerprints, scaffold, of every eighth the descriptors",
    "table": "CSV, TSV and .smi files, compressed or not, read and checked",
    "sdf": "SD files, read and checked",
    "recipe": "recipes",
    "space": "search spaces",
    "run": "a run folder, one file changed, under a seal made anew or not: loads, predicts",
    "cache": "an entry of the cache",
    "study": "`tune.json` of a study",
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page(text: str) -> str:
    """The page with the tables of today's evidence."""
    tables = {
        "kills": kills(pd.read_csv(KILLS)),
        "fuzz": fuzz(pd.read_csv(FUZZ)),
        "mutants": mutants(pd.read_csv(MUTANTS), pd.read_csv(SURVIVORS)),
    }
    for name, rows in tables.items():
        begin, end = f"<!-- {name}: make results -->", f"<!-- end of {name} -->"
        text = filled(text, begin, ["\n".join(rows)], end)
    return text


def kills(rows: pd.DataFrame) -> Iterator[str]:
    """A line a command, and their sum."""
    yield line(["what was killed", "kills", "brought to an end", "other than uninterrupted"])
    yield line(["---"] * 4)
    for row in rows.to_dict("records"):
        counts = [str(row[name]) for name in ("kills", "commands", "different")]
        yield line([COMMANDS[row["command"]], *counts])
    yield line(["all", *(str(rows[name].sum()) for name in ("kills", "commands", "different"))])


def fuzz(rows: pd.DataFrame) -> Iterator[str]:
    """A line a kind of input, and their sum."""
    yield line(["input", "tried", "worked", "refused", "faults", "slowest, s", "memory, MiB"])
    yield line(["---"] * 7)
    for name, said in INPUTS.items():
        yield _sum(said, rows[rows["target"] == name])
    yield _sum("all", rows)


def _sum(said: str, rows: pd.DataFrame) -> str:
    counts = (f"{rows[name].sum():,}" for name in ("inputs", "worked", "refused", "faults"))
    most = f"{rows['slowest'].max():.1f}", f"{rows['mebibytes'].max():,}"
    return line([said, *counts, *most])


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
