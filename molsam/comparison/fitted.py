"""Baselines on these splits: fitted where the CSV of results has no row of them yet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import baselines, metrics
from ..baselines import BASELINES
from ..files import rounded
from .compared import Comparison
from .rows import CompareError, Row, add_rows, read_rows


def named_baselines(text: str) -> list[str]:
    """`rf,gb` -> the names, each once; refuses one that is none."""
    names = list(dict.fromkeys(word.strip() for word in text.split(",")))
    for name in names:
        if name not in BASELINES:
            raise CompareError(f"no baseline {name!r}; there are {', '.join(BASELINES)}")
    return names


def declined(comparison: Comparison, names: Sequence[str]) -> dict[str, str]:
    """The baselines that do not serve here, with the reason."""
    reasons = {name: BASELINES[name].declines(comparison.problem) for name in names}
    return {name: reason for name, reason in reasons.items() if reason}


def baseline_rows(
    comparison: Comparison,
    names: Sequence[str],
    path: Path,
    *,
    told: Callable[[Row], object] = lambda row: None,
) -> list[Row]:
    """A row for each seed and baseline: from the CSV `path` where it has it, else made and added.

    told -> called with each row that was made, once it is on disk.
    """
    kept = {row.key: row for row in read_rows(path)}
    rows = []
    for seed in comparison.splits:
        for name in names:
            empty = {"valid": math.nan, "test": math.nan, "seconds": 0.0, "versions": ""}
            wanted = comparison.row(seed, name, **empty)
            row = kept.get(wanted.key)
            if row is None:
                row = fit_baseline(comparison, name, seed)
                add_rows(path, [row])
                told(row)
            elif (row.split, row.metric) != (wanted.split, wanted.metric):
                raise CompareError(
                    f"{path}: {name} of {row.task}, seed {seed}, was scored by {row.metric} on "
                    f"split {row.split}, which is not today's ({wanted.metric}, {wanted.split}): "
                    "the data or the metric differ; name another file (out)"
                )
            rows.append(row)
    return rows


def fit_baseline(comparison: Comparison, name: str, seed: int) -> Row:
    """Fit one baseline and score it on every molecule of the validation and test parts."""
    problem, split, metric = comparison.problem, comparison.splits[seed], comparison.metric
    began = time.perf_counter()
    prediction = baselines.predict(name, problem, split, metric=metric, seed=seed)
    seconds = time.perf_counter() - began
    scores = {
        part: rounded(
            metrics.score(metric, problem.y[index], prediction[index], problem.tasks).mean
        )
        for part, index in (("valid", split.valid), ("test", split.test))
    }
    return comparison.row(
        seed, name, **scores, seconds=round(seconds, 1), versions=BASELINES[name].versions()
    )
