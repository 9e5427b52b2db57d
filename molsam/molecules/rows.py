"""Feature rows of atoms and bonds, each distinct one computed by dgllife once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import Atom, Bond, rdPartialCharges

from molsam.molecules.libraries import dgllife_featurizers

Row = Callable[[Any], Sequence[float]]


class Rows:
    """The matrix of the rows of a list of atoms or bonds, no row computed twice.

    Parameters
    ----------
    size
        Columns.
    function
        Given the module `dgllife.utils.featurizers`, the function that makes the row of an RDKit
        atom or bond. It is asked for when a row is made.
    reads
        Everything that function reads of an atom or bond: items that agree in it share a row.
    """

    def __init__(
        self,
        size: int,
        function: Callable[[ModuleType], Row],
        *reads: Callable[[Any], Hashable],
    ) -> None:
        self.size = size
        self.function = function
        self.reads = reads
        self.known: dict[tuple[Hashable, ...], np.ndarray] = {}

    def __call__(self, items: Sequence[Any]) -> np.ndarray:
        """Rows of atoms or bonds, (len(items), size) float32."""
        if not items:
            return np.zeros((0, self.size), dtype=np.float32)
        keys = list(zip(*[map(read, items) for read in self.reads], strict=True))
        for key, item in zip(keys, items, strict=True):
            if key not in self.known:
                row = self.function(dgllife_featurizers())(item)
                self.known[key] = np.array(row, dtype=np.float32)
        return np.concatenate([self.known[key] for key in keys]).reshape(-1, self.size)


def atoms_of(mol: Chem.Mol) -> list[Atom]:
    """Atoms in order (several times faster than `list(mol.GetAtoms())`)."""
    return list(map(mol.GetAtomWithIdx, range(mol.GetNumAtoms())))


def bonds_of(mol: Chem.Mol) -> list[Bond]:
    """Bonds in order (several times faster than `list(mol.GetBonds())`)."""
    return list(map(mol.GetBondWithIdx, range(mol.GetNumBonds())))


def ends_of(bonds: Sequence[Bond]) -> tuple[list[int], list[int]]:
    """First and second atom of each bond."""
    return list(map(Bond.GetBeginAtomIdx, bonds)), list(map(Bond.GetEndAtomIdx, bonds))


def gasteiger_charges(mol: Chem.Mol, atoms: Sequence[Atom]) -> np.ndarray:
    """Gasteiger partial charge of each atom and of its implicit hydrogens, shape (V, 2).

    As in dgllife, 0 where there is none: one atom without parameters (a metal) spoils them all.
    """
    rdPartialCharges.ComputeGasteigerCharges(mol)
    charges = [
        [atom.GetDoubleProp("_GasteigerCharge") for atom in atoms],
        [atom.GetDoubleProp("_GasteigerHCharge") for atom in atoms],
    ]
    return np.nan_to_num(np.array(charges).T, nan=0.0, posinf=0.0, neginf=0.0)
