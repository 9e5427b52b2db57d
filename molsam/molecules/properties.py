"""Numbers and names of a whole molecule: descriptors, Morgan counts, scaffold."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from rdkit import Chem
from rdkit.Chem import Descriptors, rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold
from rdkit.rdBase import BlockLogs

DESCRIPTORS: tuple[str, ...] = tuple(name for name, _ in Descriptors._descList)
"""Names of RDKit's two-dimensional descriptors, in its own order."""

MORGAN_SIZE = 2048


def descriptors(mol: Chem.Mol) -> np.ndarray:
    """RDKit's descriptors of `mol` in the order of `DESCRIPTORS`, (K,) float64.

    NaN where RDKit cannot compute one, and whatever it returns otherwise: `Ipc` grows beyond all
    bounds with the molecule, others are infinite or NaN where charges are undefined.
    """
    with BlockLogs(), np.errstate(all="ignore"):
        return np.array([_value(function, mol) for _, function in Descriptors._descList])


def morgan_counts(mol: Chem.Mol, radius: int = 2, size: int = MORGAN_SIZE) -> np.ndarray:
    """Counts of the circular environments up to `radius` bonds, hashed to `size`; (size,) float32.

    Morgan, J. Chem. Doc. 5 (1965) 107; Rogers and Hahn, J. Chem. Inf. Model. 50 (2010) 742.
    """
    fingerprint = _morgan_generator(radius, size).GetCountFingerprintAsNumPy(mol)
    return fingerprint.astype(np.float32)


def scaffold(mol: Chem.Mol) -> str:
    """SMILES of the Bemis-Murcko scaffold, without stereochemistry; empty for an acyclic molecule.

    Bemis and Murcko, J. Med. Chem. 39 (1996) 2887: rings and the chains between them. A molecule
    whose scaffold RDKit cannot make stands alone, under its own canonical SMILES.
    """
    with BlockLogs():
        try:
            return MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=False)
        except (RuntimeError, ValueError):
            return Chem.MolToSmiles(mol)


def _value(function: Callable[[Chem.Mol], float], mol: Chem.Mol) -> float:
    # The descriptors are a hundred authors' code and raise whatever they like.
    try:
        return float(function(mol))
    except Exception:
        return np.nan


@cache
def _morgan_generator(radius: int, size: int):
    return rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=size)
