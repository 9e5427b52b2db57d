"""The epoch that validates best beside the last one, on rows that chose neither.

`python docs/studies/last_epoch.py esol 2000` trains three models by ESOL's recipe on a random 80%
of its rows, by a split of seed 2000, and adds a row to `last_epoch.csv`. Another 19% is cut in
halves at random, twenty times: one half chooses an epoch for each model, the other scores that
epoch and the last one. `one_` is the mean score of the models, `mean_` that of their mean.
"""

import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from molsam import inference
from molsam.epochs import Member, Trainer
from molsam.metrics import METRICS, score
from molsam.preparation import fit_scalers, load_table, prepare
from molsam.recipes import Recipe
from molsam.training import as_read, start_run

ROWS = Path(__file__).with_suffix(".csv")
HALVINGS = 20
CHANGES = {
    "data.fractions": (0.8, 0.19, 0.01),
    "training.members": 3,
    "training.gaussian_process": False,
}


class Watched(Trainer):
    """A trainer that keeps what each epoch of each member predicts for the validation rows."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: defaultdict[int, list[np.ndarray]] = defaultdict(list)

    def _validate(self, member: Member) -> dict[str, Any]:
        outputs = inference.infer(member.judged, self.packed, self.run.recipe, self.split.valid)
        self.seen[member.number].append(inference.to_user(outputs, self.run.info, self.run.scalers))
        return super()._validate(member)


def measure(recipe: Recipe, data: str | Path, seed: int) -> dict[str, Any]:
    """The scores of both ways; in the metric of the recipe's task."""
    table = load_table(recipe, data)
    prepared = prepare(table, recipe.data, seed, processes=1, **recipe.data.asked(False))
    scalers = fit_scalers(prepared, recipe.data)
    with tempfile.TemporaryDirectory() as folder:
        run = start_run(Path(folder), recipe, table, prepared, scalers, seed, "cpu")
        trainer = Watched(run, as_read(run, prepared), prepared.split)
        for member in range(recipe.training.members):
            trainer.train(member)
    y = prepared.table.y[prepared.split.valid]
    seen = np.array([trainer.seen[member] for member in sorted(trainer.seen)])
    return {"metric": trainer.metric, **halved(trainer.metric, y, seen)}


def halved(metric: str, y: np.ndarray, seen: np.ndarray) -> dict[str, float]:
    """Means over the halvings whose halves both have a score.

    y -> (N, T) labels; seen -> (members, epochs, N, T) predictions.
    """
    sign = 1 if METRICS[metric].greater_is_better else -1
    names = [str(task) for task in range(y.shape[1])]

    def by(rows: np.ndarray, prediction: np.ndarray) -> float:
        return score(metric, y[rows], prediction[rows], names).mean

    rng = np.random.default_rng(0)
    found = []
    for _ in range(HALVINGS):
        order = rng.permutation(len(y))
        chooses, judges = order[: len(y) // 2], order[len(y) // 2 :]
        merits = np.array([[sign * by(chooses, p) for p in member] for member in seen])
        best = seen[range(len(seen)), merits.argmax(1)]
        scores = {}
        for way, kept in (("best", best), ("last", seen[:, -1])):
            scores[f"one_{way}"] = np.mean([by(judges, p) for p in kept])
            scores[f"mean_{way}"] = by(judges, kept.mean(0))
        if np.isfinite(merits).all():
            found.append(scores)
    return pd.DataFrame(found).mean().to_dict()


if __name__ == "__main__":
    task, seed = sys.argv[1], int(sys.argv[2])
    row = {"task": task, "seed": seed, **measure(Recipe.load(task).change(CHANGES), task, seed)}
    pd.DataFrame([row]).to_csv(
        ROWS, mode="a", header=not ROWS.is_file(), index=False, float_format="%.6g"
    )
