"""Molecules of tables, and molecules that are odd."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np
from rdkit import Chem

from molsam.molecules import Features, parse_many

TABLES = ("esol", "lipophilicity", "bbbp", "sider", "tox21")
ODD = (
    "C",
    "[Na+]",
    "[Na+].[Cl-]",
    "[H][H]",
    "[H+]",
    "[2H]C([2H])O",
    "[13CH4]",
    "[U]",
    "*C",
    "C[Fe]",
    "N[Pt](N)(Cl)Cl",
    "[NH3]->[Co+3]",
    "C~C",
    "O=C[O-].[Na+].O",
    "CC(=O)O.c1ccccc1",
    "F[P-](F)(F)(F)(F)F.C[N+](C)(C)C",
    "C[C@H](N)C(=O)O",
    "F/C=C/Br",
    "C1CC2CCC1C2",
    "[CH3]",
    "[Ga+3]",
    "FS(F)(F)(F)(F)F",
)


@cache
def smiles_of(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["smiles"] for row in csv.DictReader(file)]


def sample(path: Path, number: int, *, seed: int = 0, atoms: int = 1000) -> list[Chem.Mol]:
    """Molecules drawn from a table, of at most that many atoms."""
    smiles = smiles_of(path)
    chosen = np.random.default_rng(seed).permutation(len(smiles))[: 2 * number]
    mols = parse_many(smiles[i] for i in chosen).mols
    return [mol for mol in mols if mol.GetNumAtoms() <= atoms][:number]


def assert_same(left: Features, right: Features, what: str) -> None:
    for name, a, b in zip(Features._fields, left, right, strict=True):
        assert a.dtype == b.dtype, (what, name)
        np.testing.assert_array_equal(a, b, err_msg=f"{what}: {name}")
