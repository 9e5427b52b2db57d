"""What a recipe is worth in a study: its validation scores on splits of the study's own."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .. import metrics, preparation, reading, training
from ..criteria import TrainingError, metric_name
from ..datasets import MoleculeTable
from ..environment import pick_device
from ..epochs import Listener
from ..preparation import Prepared, Readable
from ..recipes import DataConfig, Recipe, RecipeError

FIRST_SEED = 1000
"""Of a trial's splits: far from the seeds 0, 1, ... of final runs, so that those are others."""
MEMORY = ("out of memory", "can't allocate memory")


class TrialError(ValueError):
    """A trial that has no score: says why. The study goes on."""


class Objective:
    """Scores recipes on the validation rows of one table.

    s(recipe, r) -> the validation score of `fit(recipe, table, seed=1000 + r)`: the same training,
    members and choice of weights. No label of a test row is there to be seen: they are
    missing from the moment the rows are split.

    Molecules are read once for each featurizer; what training leaves is removed.
    """

    def __init__(
        self,
        table: MoleculeTable,
        recipe: Recipe,
        *,
        searched: Collection[str] = (),
        device: str = "auto",
        processes: int | None = None,
        on_read: reading.Progress | None = None,
    ) -> None:
        """searched -> fields that may differ between the recipes to come."""
        training.check_served(recipe.training, table.kind)
        self.table = table
        self.metric = metric_name(recipe.training, table.kind)
        self.device = str(pick_device(device))
        self._how: dict[str, Any] = {"processes": processes, "progress": on_read}
        process = recipe.training.gaussian_process or "training.gaussian_process" in searched
        for name, asked in recipe.data.asked(process).items():
            self._how[name] = asked or f"data.{name}" in searched
        self._read: dict[tuple[str, ...], Readable] = {}

    def check(self, recipe: Recipe, repeats: int) -> None:
        """Refuse splits that cannot be learnt from or judged, before any training.

        Raises:
            ValueError: says which split, and what to try.
        """
        for repeat in range(repeats):
            prepared = self.prepare(recipe.data, repeat)
            y, classes = prepared.table.y[prepared.split.valid], len(prepared.table.classes)
            guess = np.zeros((*y.shape, classes) if classes else y.shape)
            if math.isnan(metrics.score(self.metric, y, guess, prepared.table.tasks).mean):
                raise TrialError(
                    f"{self.table.source}: {self.metric} cannot judge the validation rows of split "
                    f"seed {FIRST_SEED + repeat}; choose another split or metric"
                )

    def score(self, recipe: Recipe, repeat: int, scratch: Path, progress: Listener | None) -> float:
        """s(recipe, repeat); what training writes comes and goes in the folder `scratch`.

        Raises:
            TrialError: training diverged, memory did not suffice, or the score is no number.
        """
        prepared, seed = self.prepare(recipe.data, repeat), FIRST_SEED + repeat
        scalers = preparation.fit_scalers(prepared, recipe.data)
        with TemporaryDirectory(dir=scratch) as folder, failures():
            run = training.start_run(
                Path(folder) / "run", recipe, self.table, prepared, scalers, seed, self.device
            )
            packed = training.train_members(run, prepared, progress)
            valid = prepared.split.valid
            mean = run.predict_each(packed, valid).mean(axis=0)
            process = training.fit_process(run, prepared)
            if process is not None:
                mean = process.mixed(mean, prepared.inputs().take(valid))
        y = prepared.table.y[valid]
        found = metrics.score(self.metric, y, mean, run.info.tasks).mean
        if not math.isfinite(found):
            raise TrialError(
                f"{self.metric} on the validation rows of split seed {seed} is {found}"
            )
        return found

    def prepare(self, choices: DataConfig, repeat: int) -> Prepared:
        """The split number `repeat`, without the labels of its test rows."""
        if choices.split == "k_fold" and choices.split_seed is None:
            choices = choices.model_copy(update={"split_seed": FIRST_SEED})
        return without_test_labels(
            preparation.divide(self._rows(choices), choices, FIRST_SEED + repeat)
        )

    def _rows(self, choices: DataConfig) -> Readable:
        key = (choices.featurizer, choices.salts, choices.charges)
        if key not in self._read:
            self._read[key] = preparation.read_rows(self.table, choices, **self._how)
        return self._read[key]


def without_test_labels(prepared: Prepared) -> Prepared:
    """The same molecules and split, with the labels of the test rows missing."""
    y = prepared.table.y.copy()
    y[prepared.split.test] = np.nan
    return replace(prepared, table=replace(prepared.table, y=y))


@contextmanager
def failures() -> Iterator[None]:
    """A recipe that cannot be trained, or does not fit into memory, as a `TrialError`."""
    try:
        yield
    except (TrainingError, RecipeError) as error:
        raise TrialError(str(error).partition(": try")[0]) from None
    except (MemoryError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        if not isinstance(error, MemoryError) and not any(word in first for word in MEMORY):
            raise
        reason = f"out of memory: {first}".rstrip(": ")
    else:
        return
    raise TrialError(reason)  # out here, no traceback keeps the tensors alive
