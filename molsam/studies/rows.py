"""What is read off a run, and tables of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import rounded, write_csv
from ..splits import PARTS

if TYPE_CHECKING:
    import pandas as pd

    from ..runs import Run

Rows = list[dict[str, Any]]
Runs = Mapping[tuple[str, str, int], "Run"]  # by task, variant and seed


def history(run: Run) -> pd.DataFrame:
    """The history of the first member."""
    import pandas as pd

    return pd.read_csv(run.members[0] / "history.csv")


def row_of(run: Run) -> dict[str, Any]:
    """Best validation score, gradients and seconds of a run, and what its history looked at.

    Diagnostics are means over epochs; training loss and sharpness are those of the last look.
    """
    epochs = history(run)
    scores = (str(c) for c in epochs if c != "valid_loss")
    score = next(c for c in scores if c.startswith("valid_"))
    row: dict[str, Any] = {
        "metric": score.removeprefix("valid_"),
        "valid": epochs[score][epochs["kept"]].iloc[-1],
        "gradients": int(epochs["gradients"].sum()),
        "seconds": round(float(epochs["seconds"].sum()), 1),
    }
    diagnosed = ("cosine", "aligned", "eps_norm", "omega_norm", "eps_cosine", "omega_cosine")
    row |= {name: float(epochs[name].mean()) for name in diagnosed if name in epochs}
    if "sharpness" in epochs:
        row |= epochs[["train_loss", "sharpness"]].dropna().iloc[-1].to_dict()
    return row


def full_row_of(run: Run) -> dict[str, Any]:
    """`row_of`, with the test score of the weights that validation chose, and their epoch.

    n_train, n_valid, n_test -> molecules of each part. Scores have six figures, as they are
    written: areas that differ by the last bit of a sum are a tie.
    """
    row, epochs = row_of(run), history(run)
    metric = row.pop("metric")
    return {
        "metric": metric,
        "valid": rounded(row.pop("valid")),
        "test": rounded(run.scores["test"][metric]["mean"]),
        "best_epoch": int(epochs["epoch"][epochs["kept"]].iloc[-1]),
        "epochs": len(epochs),
        **row,
        **{f"n_{part}": run.info.molecules[part] for part in PARTS},
    }


def summarize(rows: Rows, by: str) -> Rows:
    """Mean and sample standard deviation of column `by` for each task and variant, in order."""
    cells: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        cells.setdefault((row["task"], row["variant"]), []).append(row[by])
    return [
        {
            "task": task,
            "variant": variant,
            "n": len(values),
            "mean": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
        }
        for (task, variant), values in cells.items()
    ]


def write_rows(rows: Rows, path: Path) -> None:
    """The rows as CSV, to six figures."""
    import pandas as pd

    write_csv(path, pd.DataFrame(rows))
