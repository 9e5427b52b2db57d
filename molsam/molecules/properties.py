"""Numbers and names of a whole molecule: descriptors, Morgan counts, scaffold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache

import numpy as np
from rdkit import Chem
from rdkit.Chem import Descriptors, rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold
from rdkit.rdBase import BlockLogs

from molsam.molecules.shortcuts import PROBES, SHORTCUTS, Shortcut

DESCRIPTORS: tuple[str, ...] = tuple(name for name, _ in Descriptors._descList)
"""Names of RDKit's two-dimensional descriptors, in its own order."""

MORGAN_SIZE = 2048


def descriptors(mol: Chem.Mol) -> np.ndarray:
    """RDKit's descriptors of `mol` in the order of `DESCRIPTORS`, (K,) float64.

    NaN where RDKit cannot compute one, and whatever it returns otherwise: `Ipc` grows beyond all
    bounds with the molecule, others are infinite or NaN where charges are undefined. Bit for bit
    RDKit's values, though not all by its own functions: see `shortcuts`.
    """
    taken = _shortcuts()
    mol = Chem.Mol(mol)  # RDKit leaves what it shares as attributes of the object
    known: dict[str, float] = {}
    with BlockLogs(), np.errstate(all="ignore"):
        for shortcut in taken:
            known |= _by(shortcut, mol)
        return np.array(
            [
                known[name] if name in known else _value(function, mol)
                for name, function in Descriptors._descList
            ],
            dtype=np.float64,
        )


def morgan_counts(mol: Chem.Mol, radius: int = 2, size: int = MORGAN_SIZE) -> np.ndarray:
    """Counts of the circular environments up to `radius` bonds, hashed to `size`; (size,) float32.

    Morgan, J. Chem. Doc. 5 (1965) 107; Rogers and Hahn, J. Chem. Inf. Model. 50 (2010) 742.
    """
    fingerprint = _morgan_generator(radius, size).GetCountFingerprintAsNumPy(mol)
    return fingerprint.astype(np.float32)


def morgan_environments(mol: Chem.Mol) -> list[tuple[int, np.ndarray]]:
    """The environments that `morgan_counts` counts: the bit of each, and the atoms in it."""
    found = rdFingerprintGenerator.AdditionalOutput()
    found.AllocateBitInfoMap()
    _morgan_generator(2, MORGAN_SIZE).GetCountFingerprint(mol, additionalOutput=found)
    distance = Chem.GetDistanceMatrix(mol)
    return [
        (bit, np.flatnonzero(distance[center] <= radius))
        for bit, places in found.GetBitInfoMap().items()
        for center, radius in places
    ]


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
    except MemoryError:
        raise
    except Exception:
        return np.nan


def _by(shortcut: Shortcut, mol: Chem.Mol) -> dict[str, float]:
    """Values by name; none where the shortcut fails, so that RDKit's own functions are asked."""
    with suppress(Exception):
        return dict(zip(shortcut.names, shortcut.values(mol), strict=True))
    return {}


@cache
def _shortcuts() -> tuple[Shortcut, ...]:
    """Those that give this RDKit's values of the probes."""
    with BlockLogs(), np.errstate(all="ignore"):
        return tuple(shortcut for shortcut in SHORTCUTS if all(_agrees(shortcut, PROBES)))


def _agrees(shortcut: Shortcut, probes: Iterable[str]) -> Iterator[bool]:
    own = dict(Descriptors._descList)
    for mol in map(Chem.MolFromSmiles, probes):
        for name, value in _by(shortcut, Chem.Mol(mol)).items():
            yield name in own and np.array_equal(value, _value(own[name], mol), equal_nan=True)


@cache
def _morgan_generator(radius: int, size: int):
    return rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=size)
