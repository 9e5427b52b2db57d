"""Tables of random molecules."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..datasets import MoleculeTable
from .inputs import random_molecules


def random_table(count: int, generator: np.random.Generator) -> MoleculeTable:
    """BBBP-sized random molecules with random values of one task."""
    return MoleculeTable(
        smiles=tuple(random_molecules(count, generator)),
        y=generator.normal(size=(count, 1)).astype(np.float32),
        tasks=("y",),
        kind="regression",
        units=("",),
        classes=(),
        source="random molecules",
        rows=np.arange(1, count + 1),
        folds=None,
    )


def write_smiles(path: Path, smiles: Iterable[str], y: np.ndarray | None = None) -> int:
    """A CSV file with the column smiles, and y where it is given; how many rows it has."""
    rows = ([text] for text in smiles) if y is None else zip(smiles, y, strict=True)
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["smiles"] if y is None else ["smiles", "y"])
        for row in rows:
            writer.writerow(row)
            count += 1
    return count
