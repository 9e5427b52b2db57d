"""Molecules to numbers: dgllife's featurizers by name, distances, DGL graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from operator import methodcaller
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rdkit import Chem
from rdkit.Chem import Atom, Bond
from rdkit.rdBase import BlockLogs

from molsam.molecules.compt import compt_atoms, compt_bond_rows
from molsam.molecules.libraries import dgl
from molsam.molecules.pairs import pagtn_pairs, weave_atoms, weave_pairs
from molsam.molecules.rows import Rows, atoms_of, bonds_of, ends_of

if TYPE_CHECKING:
    from dgl import DGLGraph

Atoms = Callable[[Chem.Mol], np.ndarray]
Edges = Callable[[Chem.Mol], tuple[np.ndarray, np.ndarray, np.ndarray]]

_UNREACHABLE = 1e8  # RDKit's distance between fragments
_VERSION = f"1+dgllife{version('dgllife')}+rdkit{version('rdkit')}"


class Features(NamedTuple):
    """A molecule as arrays; edges go both ways and are sorted by (src, dst).

    atoms -> (V, atom_size) float32;  src, dst -> (E,) int32;  bonds -> (E, bond_size) float32
    """

    atoms: np.ndarray
    src: np.ndarray
    dst: np.ndarray
    bonds: np.ndarray


@dataclass(frozen=True)
class Featurizer:
    """One of dgllife's featurizers.

    Edges are the bonds, without self loops, or, if `complete`, all ordered pairs of atoms, an atom
    with itself included, as dgllife makes them. `continuous` names the atom columns that hold
    Gasteiger charges; all others take few values. `version` changes whenever the numbers may:
    with this code, dgllife or RDKit.
    """

    name: str
    atom_size: int
    bond_size: int
    complete: bool = False
    continuous: tuple[int, ...] = ()
    version: str = _VERSION
    atoms: Atoms = field(kw_only=True, repr=False, compare=False)
    edges: Edges = field(kw_only=True, repr=False, compare=False)


def featurizer(name: str) -> Featurizer:
    """The featurizer called `name`; a `ValueError` lists them all if there is none."""
    if name not in FEATURIZERS:
        raise ValueError(f"there is no featurizer {name!r}: choose from {', '.join(FEATURIZERS)}")
    return FEATURIZERS[name]


def featurize(mol: Chem.Mol, name: str) -> Features:
    """The features of `mol` by the featurizer called `name`, equal to dgllife's bit for bit.

    Any molecule will do: a single atom has no bonds, salts and metals have their usual rows.
    """
    chosen = featurizer(name)
    with BlockLogs():
        return Features(chosen.atoms(mol), *chosen.edges(mol))


def distances(mol: Chem.Mol) -> np.ndarray:
    """Shortest paths in bonds between all atoms, (V, V) int16; -1 between fragments."""
    d = Chem.GetDistanceMatrix(mol)
    return np.where(d < _UNREACHABLE, d, -1).astype(np.int16)


def to_dgl(mol: Chem.Mol, name: str) -> DGLGraph:
    """The features as a DGLGraph on the CPU, in `ndata["h"]` and `edata["e"]`.

    `edata["distance"]` is the shortest path in bonds between the ends of an edge, which the edges
    of a complete graph do not tell.
    """
    import torch

    features = featurize(mol, name)
    edges = torch.from_numpy(features.src), torch.from_numpy(features.dst)
    graph = dgl().graph(edges, num_nodes=len(features.atoms))
    graph.ndata["h"] = torch.from_numpy(features.atoms)
    graph.edata["e"] = torch.from_numpy(features.bonds)
    graph.edata["distance"] = torch.from_numpy(distances(mol)[features.src, features.dst])
    return graph


def _each_atom(rows: Rows) -> Atoms:
    return lambda mol: rows(atoms_of(mol))


def _bonds_both_ways(rows: Rows) -> Edges:
    def edges(mol: Chem.Mol) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        bonds = bonds_of(mol)
        begin, end = ends_of(bonds)
        src, dst = np.array([begin + end, end + begin], dtype=np.int32)
        order = np.lexsort((dst, src))
        return src[order], dst[order], rows(bonds).take(order, axis=0, mode="wrap")

    return edges


def _all_pairs(pairs: Callable[[Chem.Mol], np.ndarray]) -> Edges:
    def edges(mol: Chem.Mol) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        atoms = np.arange(mol.GetNumAtoms(), dtype=np.int32)
        return np.repeat(atoms, len(atoms)), np.tile(atoms, len(atoms)), pairs(mol)

    return edges


def _cip_code(atom: Atom) -> str:
    return atom.GetProp("_CIPCode") if atom.HasProp("_CIPCode") else ""


_canonical_atoms = Rows(
    74,
    lambda dgllife: dgllife.CanonicalAtomFeaturizer().featurizer_funcs["h"],
    Atom.GetAtomicNum,
    Atom.GetDegree,
    Atom.GetNumImplicitHs,
    Atom.GetFormalCharge,
    Atom.GetNumRadicalElectrons,
    Atom.GetHybridization,
    Atom.GetIsAromatic,
    Atom.GetTotalNumHs,
)
_canonical_bonds = Rows(
    12,
    lambda dgllife: dgllife.CanonicalBondFeaturizer().featurizer_funcs["e"],
    Bond.GetBondType,
    Bond.GetIsConjugated,
    Bond.IsInRing,
    Bond.GetStereo,
)
_attentivefp_atoms = Rows(
    39,
    lambda dgllife: dgllife.AttentiveFPAtomFeaturizer().featurizer_funcs["h"],
    Atom.GetAtomicNum,
    Atom.GetDegree,
    Atom.GetFormalCharge,
    Atom.GetNumRadicalElectrons,
    Atom.GetHybridization,
    Atom.GetIsAromatic,
    Atom.GetTotalNumHs,
    methodcaller("HasProp", "_ChiralityPossible"),
    _cip_code,
)
_attentivefp_bonds = Rows(
    10,
    lambda dgllife: dgllife.AttentiveFPBondFeaturizer().featurizer_funcs["e"],
    Bond.GetBondType,
    Bond.GetIsConjugated,
    Bond.IsInRing,
    Bond.GetStereo,
)
_pagtn_atoms = Rows(
    94,
    lambda dgllife: dgllife.PAGTNAtomFeaturizer().featurizer_funcs["h"],
    Atom.GetAtomicNum,
    Atom.GetFormalCharge,
    Atom.GetDegree,
    Atom.GetTotalValence,
    Atom.GetNumImplicitHs,
    Atom.GetIsAromatic,
)

FEATURIZERS: dict[str, Featurizer] = {
    "canonical": Featurizer(
        "canonical",
        atom_size=74,
        bond_size=12,
        atoms=_each_atom(_canonical_atoms),
        edges=_bonds_both_ways(_canonical_bonds),
    ),
    "attentivefp": Featurizer(
        "attentivefp",
        atom_size=39,
        bond_size=10,
        atoms=_each_atom(_attentivefp_atoms),
        edges=_bonds_both_ways(_attentivefp_bonds),
    ),
    "weave": Featurizer(
        "weave",
        atom_size=27,
        bond_size=12,
        complete=True,
        continuous=(14,),
        atoms=weave_atoms,
        edges=_all_pairs(weave_pairs),
    ),
    "pagtn": Featurizer(
        "pagtn",
        atom_size=94,
        bond_size=42,
        complete=True,
        atoms=_each_atom(_pagtn_atoms),
        edges=_all_pairs(pagtn_pairs),
    ),
    "compt": Featurizer(
        "compt",
        atom_size=115,
        bond_size=13,
        continuous=(111, 112),
        atoms=compt_atoms,
        edges=_bonds_both_ways(compt_bond_rows),
    ),
}
"""The featurizers by name, all of dgllife but `compt`, which composes dgllife's functions."""
