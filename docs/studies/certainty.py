"""How sure runs are, and how rightly.

`python docs/studies/certainty.py runs/esol-0 runs/esol-1 ...` writes `certainty.csv` with a row for
each finished run, of its test rows: the share of values within intervals of 50 to 95% and their
median width, or log loss and calibration error of probabilities, as predicted and at the
temperature; the rank correlation of errors with std and with similarity; mean errors in the domain
and out of it.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from molsam import Run
from molsam.files import write_csv
from molsam.metrics import calibration_error
from molsam.report.held_out import COVERAGES, HeldOut, mean_errors, mean_of

ROWS = Path(__file__).with_suffix(".csv")


def measure(run: Run) -> dict[str, Any]:
    """One row."""
    test, sure = HeldOut.of(run), run.certainty
    assert test is not None
    assert sure is not None
    known, error = ~np.isnan(test.y), mean_errors(test)
    row: dict[str, Any] = {"seed": run.info.seed, "n_test": len(error)}
    if run.info.kind == "regression":
        for coverage in COVERAGES:
            within, widths = test.within(coverage)
            row[f"within_{coverage:.0%}"] = within
            row[f"width_{coverage:.0%}"] = np.median(widths)
    else:
        row["temperature"] = sure.temperature
        for name, p in (("raw", test.mean), ("calibrated", sure.calibrated(test.mean))):
            y, p = test.y[known], p[known].clip(1e-6, 1 - 1e-6)
            row[f"log_loss_{name}"] = -np.where(y == 1, np.log(p), np.log(1 - p)).mean()
            row[f"calibration_error_{name}"] = calibration_error(y, p)
    row["error_std_rank"] = rank(error, test.std.mean(axis=1))
    row["error_similarity_rank"] = rank(error, test.similarity)
    row["outside"] = int((~test.inside).sum())
    row["error_inside"], row["error_outside"] = (
        mean_of(error[which]) for which in (test.inside, ~test.inside)
    )
    return row


def rank(error: np.ndarray, x: np.ndarray) -> float:
    """Spearman's correlation over the molecules with an error."""
    known = ~np.isnan(error)
    return float(spearmanr(error[known], x[known]).statistic)


if __name__ == "__main__":
    runs = [Run.load(folder, device="cpu") for folder in sys.argv[1:]]
    rows = [{"task": Path(run.info.source).stem, **measure(run)} for run in runs]
    write_csv(ROWS, pd.DataFrame(rows))
