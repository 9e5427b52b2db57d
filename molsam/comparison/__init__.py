"""Baselines and trained models on the same splits: scores by seed, and what differences mean.

`Comparison.of` splits a table as `fit` does with the same recipe and seeds. `baseline_rows` fits
what a CSV of results does not hold yet and adds it there, row by row. `run_rows` reads the scores
of finished runs, after a check that their splits are the same, and `record` keeps them beside the
baselines. `summarize` pairs both by seed.
"""

from .compared import Comparison, protocol
from .differences import Summary, corrected_t_test, resampled, seeds_text, summarize, verdicts
from .fitted import baseline_rows, declined, fit_baseline, named_baselines
from .rows import OURS, CompareError, Row, add_rows, read_rows
from .trained import (
    fitting_runs,
    mismatch,
    named_runs,
    recipe_digest,
    record,
    rows_of,
    run_rows,
    titles,
)

__all__ = [
    "OURS",
    "CompareError",
    "Comparison",
    "Row",
    "Summary",
    "add_rows",
    "baseline_rows",
    "corrected_t_test",
    "declined",
    "fit_baseline",
    "fitting_runs",
    "mismatch",
    "named_baselines",
    "named_runs",
    "protocol",
    "read_rows",
    "recipe_digest",
    "record",
    "resampled",
    "rows_of",
    "run_rows",
    "seeds_text",
    "summarize",
    "titles",
    "verdicts",
]
