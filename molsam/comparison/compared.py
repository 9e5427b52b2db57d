"""A table and its splits, as `fit` makes them with the same recipe and seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from .. import preparation
from ..baselines import Problem
from ..criteria import metric_name
from ..datasets import MoleculeTable
from ..recipes import DataConfig, Recipe
from ..splits import PARTS, Split
from .rows import Row


@dataclass(frozen=True)
class Comparison:
    """The readable molecules of a table, and how each seed splits them.

    Attributes
    ----------
    name : of the task, or of the file.
    digest : of the whole table.
    rows : position of each readable molecule in the table, from 0.
    splits : seed -> positions among the readable molecules.
    """

    name: str
    protocol: str
    metric: str
    digest: str
    rows: np.ndarray
    problem: Problem
    splits: Mapping[int, Split]

    @classmethod
    def of(
        cls, recipe: Recipe, table: MoleculeTable, seeds: Sequence[int], **how: Any
    ) -> Comparison:
        """`how` (processes, progress) goes to `reading.read`, which has the cache at hand."""
        choices = recipe.data
        parts: dict[str, Any] = {"featurizer": None, "descriptors": True, "fingerprints": True}
        rows = preparation.read_rows(table, choices, **parts, **how)
        splits = {seed: preparation.split_rows(rows, choices, seed) for seed in seeds}
        for split in splits.values():
            preparation.refuse_untested(rows.table, split)
        return cls(
            name=Path(table.source).name,
            protocol=protocol(choices),
            metric=metric_name(recipe.training, table.kind),
            digest=table.digest(),
            rows=rows.table.rows - 1,
            problem=Problem.of(rows.table, rows.read, choices.salts, choices.charges),
            splits=splits,
        )

    def parts(self, seed: int) -> dict[str, list[int]]:
        """The split as positions in the whole table, as a run's `split.json` has it."""
        split = self.splits[seed]
        return {part: self.rows[getattr(split, part)].tolist() for part in PARTS}

    def row(self, seed: int, model: str, **found: Any) -> Row:
        """A row of this table and these splits."""
        split = self.splits[seed]
        content = json.dumps([self.digest, self.parts(seed)])
        return Row(
            task=self.name,
            protocol=self.protocol,
            split=hashlib.sha256(content.encode()).hexdigest()[:12],
            seed=seed,
            model=model,
            metric=self.metric,
            n_train=len(split.train),
            n_test=len(split.test),
            **{"date": date.today().isoformat(), **found},
        )


def protocol(choices: DataConfig) -> str:
    """All that decides a split, but for the run's seed: `random 0.8/0.1/0.1`."""
    if choices.split == "file":
        text = f"file {Path(choices.split_file or '').name}"
    elif choices.split == "column":
        text = f"column {choices.split_column}"
    elif choices.split == "k_fold":
        text = f"k_fold {choices.folds}"
    elif choices.split == "paper":
        text = "paper"
    else:
        text = f"{choices.split} {'/'.join(f'{f:g}' for f in choices.fractions)}"
    if choices.split_seed is not None:
        text += f", split seed {choices.split_seed}"
    cleaned = {"salts": choices.salts, "charges": choices.charges}
    return text + "".join(f", {name} {how}" for name, how in cleaned.items() if how != "keep")
