"""What is in a table: molecules that cannot be read, repeats, salts, sizes, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from molsam.datasets.tables import MoleculeTable
from molsam.molecules import InvalidMolecule, canonical_smiles, parse_many


@dataclass(frozen=True)
class Labels:
    """One task: labels known and missing, their range, and for classes how many of each."""

    task: str
    known: int
    missing: int
    low: float
    high: float
    counts: dict[str, int]


@dataclass(frozen=True)
class CheckReport:
    """What `check` found. Rows are data rows of the source, from 1.

    Attributes
    ----------
    source, rows : what was checked, and its number of rows.
    unreadable : one error a row, with row, text and reason.
    duplicates : rows that hold the same molecule, a group each.
    conflicts : those groups in which two labels of one task differ.
    related : rows whose molecules differ, but no longer as their largest fragments without charges,
        a group each.
    salts : rows of more than one fragment.
    atoms : heavy atoms of the smallest and the largest molecule; (0, 0) if none can be read.
    labels : one entry a task.
    spoilt : as of the table.
    """

    source: str
    rows: int
    unreadable: tuple[InvalidMolecule, ...]
    duplicates: tuple[tuple[int, ...], ...]
    conflicts: tuple[tuple[int, ...], ...]
    related: tuple[tuple[int, ...], ...]
    salts: tuple[int, ...]
    atoms: tuple[int, int]
    labels: tuple[Labels, ...]
    spoilt: tuple[str, ...]


def check(table: MoleculeTable) -> CheckReport:
    """Look for what spoils training or its scores, before any training."""
    parsed = parse_many(table.smiles)
    rows = table.rows[parsed.index]
    names = [canonical_smiles(mol) for mol in parsed.mols]
    sizes = [mol.GetNumHeavyAtoms() for mol in parsed.mols] or [0]
    groups = _groups(names, parsed.index)
    bare = parse_many(names, salts="largest", charges="neutralize")
    parents = [canonical_smiles(mol) for mol in bare.mols]
    spelt = dict(zip(parsed.index.tolist(), names, strict=True))
    kin = _groups(parents, parsed.index[bare.index])
    return CheckReport(
        source=table.source,
        rows=len(table),
        unreadable=tuple(
            InvalidMolecule(error.smiles, int(row), error.reason)
            for row, error in zip(np.delete(table.rows, parsed.index), parsed.errors, strict=True)
        ),
        duplicates=tuple(_rows(table, group) for group in groups),
        conflicts=tuple(_rows(table, group) for group in groups if _conflict(table.y[group])),
        related=tuple(_rows(table, rows) for rows in kin if len({spelt[row] for row in rows}) > 1),
        salts=tuple(int(row) for row, name in zip(rows, names, strict=True) if "." in name),
        atoms=(min(sizes), max(sizes)),
        labels=tuple(_labels(table, task) for task in range(len(table.tasks))),
        spoilt=table.spoilt,
    )


def _groups(names: Sequence[str], index: np.ndarray) -> list[list[int]]:
    """Positions of equal molecules, where there are two or more."""
    places: dict[str, list[int]] = {}
    for name, position in zip(names, index, strict=True):
        places.setdefault(name, []).append(int(position))
    return [group for group in places.values() if len(group) > 1]


def _rows(table: MoleculeTable, group: list[int]) -> tuple[int, ...]:
    return tuple(int(row) for row in table.rows[group])


def _conflict(y: np.ndarray) -> bool:
    return any(len(np.unique(column[~np.isnan(column)])) > 1 for column in y.T)


def _labels(table: MoleculeTable, task: int) -> Labels:
    column = table.y[:, task]
    known = column[~np.isnan(column)]
    counts: dict[str, int] = {}
    if table.kind != "regression":
        names = table.classes or ("0", "1")
        counts = {name: int((known == code).sum()) for code, name in enumerate(names)}
    low, high = (float(known.min()), float(known.max())) if len(known) else (np.nan, np.nan)
    return Labels(table.tasks[task], len(known), len(column) - len(known), low, high, counts)
