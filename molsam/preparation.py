"""From a table to what a model learns from: molecules read, rows split, scales fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import baselines, datasets, distributed, inference, reading, splits
from .batches import PackedMolecules
from .datasets import Kind, MoleculeTable
from .gaussian_process import Inputs
from .molecules import InvalidMolecule
from .recipes import DataConfig, Recipe
from .records import Scalers
from .scaling import DescriptorScaler, Standardizer
from .splits import PARTS, Split

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Readable:
    """What could be read of the table `source`: its rows, what was made of them, the others."""

    source: MoleculeTable
    table: MoleculeTable
    read: reading.Reading
    bad: list[InvalidMolecule]


@dataclass(frozen=True)
class Prepared:
    """A table behind the door: what could be read, how it is split, and what could not.

    `descriptors` and `fingerprints` are there if anything asked for them, the recipe's data or not;
    `problem` is what a baseline learns from, where one is asked for.
    """

    table: MoleculeTable
    packed: PackedMolecules
    descriptors: np.ndarray | None
    fingerprints: np.ndarray | None
    split: Split
    bad: list[InvalidMolecule]
    problem: baselines.Problem | None

    def inputs(self) -> Inputs:
        """What a Gaussian process reads, where it was asked for."""
        assert self.fingerprints is not None
        assert self.descriptors is not None
        return Inputs(self.fingerprints, self.descriptors)


def load_table(
    recipe: Recipe, data: str | Path | pd.DataFrame, *, kind: Kind | None = None, **where: Any
) -> MoleculeTable:
    """The table `data` with the columns that the recipe names; `where` goes to `datasets.load`."""
    choices = recipe.data
    load = partial(
        datasets.load,
        data,
        smiles=choices.smiles_column,
        targets=choices.targets or None,
        split_column=choices.split_column,
        kind=kind or choices.kind,
        **where,
    )
    return distributed.in_turn(load)  # or each process would download it


def prepare(
    table: MoleculeTable, choices: DataConfig, seed: int, *, baseline: bool = False, **how: Any
) -> Prepared:
    """Read every molecule, keep the faults with their rows, split what can be read.

    `how` (processes, progress) goes to `reading.read`, which has the cache at hand.
    """
    if baseline:
        how |= {"descriptors": True, "fingerprints": True}
    return divide(read_rows(table, choices, **how), choices, seed, baseline=baseline)


def read_rows(table: MoleculeTable, choices: DataConfig, **how: Any) -> Readable:
    """The rows of `table` that can be read, with scaffolds where the split asks for them.

    `how` goes to `inference.read_molecules`.
    """
    how = {"scaffolds": "scaffold" in choices.split, "keep": True, **how}
    return readable(table, inference.read_molecules(table.smiles, choices, **how))


def readable(table: MoleculeTable, read: reading.Reading) -> Readable:
    """The rows that could be read, one at least, and the faults of the others."""
    bad = [
        InvalidMolecule(fault.smiles, int(row), fault.reason)
        for row, fault in zip(np.delete(table.rows, read.index), read.errors, strict=True)
    ]
    if not len(read.index):
        raise datasets.DataError(
            f"none of the {len(table)} rows of {table.source} can be read; the first: {bad[0]}"
        )
    return Readable(table, table.take(read.index), read, bad)


def split_rows(rows: Readable, choices: DataConfig, seed: int) -> Split:
    """The recipe's split, as positions among the rows that could be read; one to learn from."""
    if choices.split == "file":
        saved = read_split(Path(choices.split_file or ""), rows.source)
        split = readable_part(saved, rows.table)
    else:
        split = make_split(rows.table, rows.read.scaffolds, choices, seed)
    refuse_unlearnable(rows.table, split)
    return split


def divide(rows: Readable, choices: DataConfig, seed: int, *, baseline: bool = False) -> Prepared:
    """What a model of these choices learns from, and on which rows."""
    table, read = rows.table, rows.read
    assert read.packed is not None
    return Prepared(
        table=table,
        packed=read.packed,
        descriptors=read.descriptors,
        fingerprints=read.fingerprints,
        split=split_rows(rows, choices, seed),
        bad=rows.bad,
        problem=baselines.Problem.of(table, read, choices.salts, choices.charges)
        if baseline
        else None,
    )


def make_split(
    table: MoleculeTable, scaffolds: Sequence[str] | None, choices: DataConfig, seed: int
) -> Split:
    """The recipe's split of the readable molecules, as positions in `table`."""
    if choices.split == "k_fold":
        folds = splits.k_fold(len(table), choices.folds, choices.split_seed or 0)
        return folds[seed % choices.folds]
    fixed = choices.split == "paper"  # its one split is part of the protocol
    return splits.make(
        choices.split,
        n=len(table),
        y=table.y,
        scaffolds=scaffolds,
        column=table.folds,
        seed=choices.split_seed if fixed or choices.split_seed is not None else seed,
        fractions=choices.fractions,
    )


def read_split(path: Path, table: MoleculeTable) -> Split:
    """A saved split of all rows of the table, the unreadable ones too."""
    if not path.is_file():
        raise splits.SplitError(f"there is no split file {path}")
    return splits.from_json(path).check(int(table.rows.max()))


def readable_part(saved: Split, table: MoleculeTable) -> Split:
    """A split of data rows as positions in `table`, which holds the readable ones."""
    rows = table.rows - 1
    return Split(*(np.flatnonzero(np.isin(rows, getattr(saved, part))) for part in PARTS))


def refuse_unlearnable(table: MoleculeTable, split: Split) -> None:
    """Training rows need a label for each task and two that differ, validation rows any label."""
    known = ~np.isnan(table.y)
    y = table.y[split.train]
    bare = ~known[split.train].any(axis=0)
    if bare.any():
        raise datasets.DataError(
            f"{table.source}: no training row has a label for "
            f"{', '.join(np.array(table.tasks)[bare])}; leave the target out, or choose another "
            "split or seed"
        )
    if (np.nanmax(y, axis=0) == np.nanmin(y, axis=0)).all():
        raise datasets.DataError(
            f"{table.source}: the label of {', '.join(table.tasks)} never differs in the "
            f"{len(y)} training rows, so there is nothing to learn; add molecules with other "
            "labels, or choose another target, split or seed"
        )
    if not known[split.valid].any():
        raise datasets.DataError(
            f"{table.source}: no validation row has a label to select the weights by; choose "
            "another split or seed, or leave out rows without a label"
        )


def refuse_untested(table: MoleculeTable, split: Split) -> None:
    """Models are compared on test rows."""
    if not len(split.test):
        raise splits.SplitError(
            f"{table.source}: the split has no test rows to compare models on; choose another, or "
            "data.fractions whose last is above 0"
        )


def fit_scalers(prepared: Prepared, choices: DataConfig) -> Scalers:
    """Scales of the targets and of the descriptors, from training rows only."""
    table, raw, train = prepared.table, prepared.descriptors, prepared.split.train
    regression = table.kind == "regression"
    target = (
        Standardizer.fit(table.y[train]) if regression else Standardizer.identity(len(table.tasks))
    )
    if not choices.descriptors:
        return Scalers(target, None)
    assert raw is not None
    return Scalers(target, DescriptorScaler.fit(raw[train], choices.descriptor_scale))
