"""Epochs of training as `fit` runs them, with GraphSAM and with its base optimizer alone."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..datasets import MoleculeTable
from ..environment import pick_device
from ..recipes import Recipe
from ..training import fit
from .racing import Entrant, Told, machine, rate, ratios, run_rounds
from .tables import random_table


class Fit(Entrant):
    """`fit` of a recipe; its time is that of the training steps after the first epoch."""

    def __init__(
        self, name: str, recipe: Recipe, table: MoleculeTable, device: torch.device
    ) -> None:
        super().__init__(name, device)
        self.recipe, self.table = recipe, table

    def take(self, turn: Sequence[Any]) -> None:
        """Train anew for each item."""
        for _ in turn:
            with tempfile.TemporaryDirectory() as folder:
                run = fit(self.recipe, self.table, out=folder, device=str(self.device))
                history = Path(run.folder) / "member-0" / "history.csv"
                _, *epochs = csv.DictReader(history.read_text().splitlines())
            self.seconds[-1] += sum(float(epoch["seconds"]) for epoch in epochs)


def measure_training(
    *,
    rounds: int = 3,
    count: int = 400,
    epochs: int = 3,
    device: str = "auto",
    progress: Told = lambda done: None,
) -> dict[str, Any]:
    """Molecules a second of `fit` with the default recipe, and without its GraphSAM.

    BBBP-sized molecules with random values, of which four fifths are trained on. The clock is that
    of the run's history: batches, steps and schedules, from the second epoch on; reading molecules
    and validation are left out.

    rounds -> of one `fit` each; count -> molecules; epochs -> at least 2.

    Returns what JSON can hold: the machine, the settings, and `rows`, medians over rounds.
    """
    where = pick_device(device)
    generator = np.random.default_rng(0)
    table = random_table(count, generator)
    recipe = Recipe().change({"training.epochs": epochs, "training.patience": None})
    plain = recipe.change({"optimizer.name": "none"})
    entrants = [Fit("GraphSAM", recipe, table, where), Fit("AdamW", plain, table, where)]
    run_rounds(entrants, [[0]], rounds, generator, progress)
    trained = (epochs - 1) * round(recipe.data.fractions[0] * count)
    model = recipe.model
    return {
        "bench": "train",
        **machine(where),
        "settings": {
            "count": count,
            "epochs": epochs,
            "rounds": rounds,
            "batch_size": recipe.training.batch_size,
            "model": model.model_dump(),
        },
        "rows": [
            {
                "optimizer": entrant.name,
                "molecules_per_second": rate(trained, entrant),
                **ratios(entrants[1], entrant),
            }
            for entrant in entrants
        ],
    }
