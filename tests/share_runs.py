"""Runs that several processes train together: `torchrun share_runs.py FOLDER JOB`.

Of three tasks, a quarter of whose labels are missing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import kill_runs
import tiny

from molsam import Run, cli, epochs, fit, histories, pictures

# Of 60 molecules 49 train: batches of 16, and a last one of a single molecule.
FRACTIONS = {"data.fractions": [0.817, 0.1, 0.083]}
NO_DROPOUT = {"model.dropout": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "graphsam": {
        "optimizer.name": "graphsam",
        "clip_norm": 0.5,
        "average": 0.8,
        "diagnose_every": 2,
    },
    "sam": {
        "optimizer.name": "sam",
        "model.name": "graph_transformer",
        "model.attention_dropout": 0.0,
        "sharpness_every": 2,
    },
    "killed": {"optimizer.name": "graphsam", "reuse_interval": 3},
}
DRAWN = ("dropout", "dropout-again")


def train(name: str, folder: Path, **how: Any) -> Run:
    """A case, by however many processes there are."""
    fields = {} if name in DRAWN else CASES[name] | NO_DROPOUT
    recipe = tiny.recipe(**FRACTIONS | fields)
    return fit(recipe, tiny.multilabel(), out=folder / name, resume=True, **how)


def begin(folder: Path) -> None:
    """Train all cases but one, which dies in its second epoch."""
    for name in (*CASES, *DRAWN):
        if name != "killed":
            train(name, folder)
    train("killed", folder, progress=kill_runs.at(1.5))


def go_on(folder: Path) -> None:
    """End what was killed, and then ask for a column that is not there."""
    train("killed", folder)
    mine = folder / "mine.csv"
    mine.write_text("smiles,y\nCCO,1\n")
    sys.argv = ["molsam", "train", "--data", str(mine), "--target", "z"]
    cli.main()


def main(folder: Path, job: str) -> None:
    epochs.CHECKPOINT_SECONDS = 0.0
    histories.find_spec = lambda name: None  # type: ignore[assignment]
    pictures.draw = lambda *_: None  # type: ignore[assignment]
    {"begin": begin, "go-on": go_on}[job](folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
