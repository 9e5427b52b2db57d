"""The tables of docs/results.md on charges, from docs/studies/charges.csv and the scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from molsam.comparison import Row, read_rows

from .results import PAGE, PAPER_PROTOCOL, SCORES, of_recipe, table
from .text import DOCS, filled, line

WRITTEN = DOCS / "studies" / "charges.csv"
NEUTRAL = f"{PAPER_PROTOCOL}, charges neutralize"
TASK = "clintox"
BEGIN, END = "<!-- charges: make results -->", "<!-- end of charges -->"


def main() -> None:
    """Write the page."""
    text = page(read_rows(SCORES), PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(text, encoding="utf-8")


def page(rows: Sequence[Row], text: str) -> str:
    """The page with the tables of today's evidence."""
    shares = pd.read_csv(WRITTEN)
    found = {
        "as written": of_recipe(rows, TASK, PAPER_PROTOCOL, TASK),
        "neutral": of_recipe(rows, TASK, NEUTRAL, TASK, charges="neutralize"),
    }
    scores = table({how: chosen for how, chosen in found.items() if chosen}, NEUTRAL)
    return filled(text, BEGIN, ["\n".join(written(shares)), scores], END)


def written(rows: pd.DataFrame) -> Iterator[str]:
    """A line a target: the charged among the molecules of each label."""
    yield line(["", "", "label 0", "label 1"])
    yield line(["---"] * 4)
    for names, of_target in rows.groupby(["task", "target"], sort=False):
        counts = of_target.set_index("label")
        cells = (share(*counts.loc[label, ["charged", "molecules"]]) for label in (0, 1))
        yield line([*names, *cells])


def share(charged: int, molecules: int) -> str:
    """`2 of 94, 2%`."""
    return f"{charged:,} of {molecules:,}, {charged / molecules:.0%}"
