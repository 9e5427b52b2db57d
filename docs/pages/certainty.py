"""The tables of docs/certainty.md, from docs/studies/certainty.csv."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from .text import DOCS, filled, line, spread

PAGE = DOCS / "certainty.md"
ROWS = DOCS / "studies" / "certainty.csv"
BEGIN, END = "<!-- certainty: make results -->", "<!-- end of certainty -->"
COVERAGES = ("50%", "80%", "90%", "95%")
VALUES = {f"within_{c}": f"within {c}" for c in COVERAGES} | {"width_90%": "width at 90%"}
CLASSES = {
    "log_loss_raw": "log loss",
    "log_loss_calibrated": "calibrated",
    "calibration_error_raw": "calibration error",
    "calibration_error_calibrated": "calibrated",
    "temperature": "temperature",
}
ERRORS = {
    "error_std_rank": "rank correlation of error and std",
    "error_similarity_rank": "of error and similarity",
    "error_inside": "mean error in the domain",
    "error_outside": "outside",
    "outside": "molecules outside",
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page(text: str) -> str:
    """The page with the tables of today's evidence."""
    rows = pd.read_csv(ROWS)
    values = rows[rows["temperature"].isna()]
    tables = (
        table(values, VALUES),
        table(rows[rows["temperature"].notna()], CLASSES),
        table(values, ERRORS),
    )
    return filled(text, BEGIN, ("\n".join(each) for each in tables), END)


def table(rows: pd.DataFrame, columns: dict[str, str]) -> Iterator[str]:
    """A line a task: mean and standard deviation over its runs."""
    yield line(["runs", *columns.values()])
    yield line(["---"] * (1 + len(columns)))
    for task, of_task in rows.groupby("task"):
        found = of_task[list(columns)]
        cells = (spread(*both) for both in zip(found.mean(), found.std(), strict=True))
        yield line([f"{task} ({len(of_task)})", *cells])
