"""Molecules to numbers: dgllife's featurizers by name, distances, DGL graphs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rdkit import Chem
from rdkit.Chem import Atom, Bond, rdqueries
from rdkit.rdBase import BlockLogs

from molsam.molecules.compt import compt_atom_rows, compt_bond_rows
from molsam.molecules.libraries import dgl
from molsam.molecules.pairs import (
    pagtn_pair_codes,
    pagtn_pair_rows,
    weave_atom_codes,
    weave_atom_rows,
    weave_pair_codes,
    weave_pair_rows,
)
from molsam.molecules.paths import distances
from molsam.molecules.rows import CHARGES, Rows, Table, atoms_of, bonds_of, gasteiger_charges

if TYPE_CHECKING:
    from dgl import DGLGraph

AtomCodes = Callable[[Chem.Mol, Sequence[Atom]], list[int]]
Edges = Callable[[Sequence[Chem.Mol]], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]

_CHIRAL, _CIP = "_ChiralityPossible", "_CIPCode"
_RARE_ATOM = rdqueries.FormalChargeEqualsQueryAtom(0, negate=True)
for _query in (
    rdqueries.NumRadicalElectronsEqualsQueryAtom(0, negate=True),
    rdqueries.HasPropQueryAtom(_CHIRAL),
    rdqueries.HasPropQueryAtom(_CIP),
):
    _RARE_ATOM.ExpandQuery(_query, Chem.CompositeQueryType.COMPOSITE_OR)
_RARE_BOND = Chem.MolFromSmarts("*!-;!=;!#;!:*")  # of a type whose number another type may share
_VERSION = f"1+dgllife{version('dgllife')}+rdkit{version('rdkit')}"


class Encoded(NamedTuple):
    """N molecules, one after another, as codes: places of rows in a featurizer's two tables.

    sizes -> (N,) atoms of each;  atoms -> (A,) codes;  charges -> (A, C) float32, the continuous
    columns;  edges -> (N,) edges of each;  src, dst -> (E,) atoms within the molecule, sorted by
    (src, dst);  bonds -> (E,) codes
    """

    sizes: np.ndarray
    atoms: np.ndarray
    charges: np.ndarray
    edges: np.ndarray
    src: np.ndarray
    dst: np.ndarray
    bonds: np.ndarray


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
    with this code, dgllife or RDKit. `atom_table` and `bond_table` grow as rows are met.
    """

    name: str
    atom_size: int
    bond_size: int
    complete: bool = False
    continuous: tuple[int, ...] = ()
    version: str = _VERSION
    atom_table: Table = field(kw_only=True, repr=False, compare=False)
    bond_table: Table = field(kw_only=True, repr=False, compare=False)
    atom_codes: AtomCodes = field(kw_only=True, repr=False, compare=False)
    edges: Edges = field(kw_only=True, repr=False, compare=False)


def featurizer(name: str) -> Featurizer:
    """The featurizer called `name`; a `ValueError` lists them all if there is none."""
    if name not in FEATURIZERS:
        raise ValueError(f"there is no featurizer {name!r}: choose from {', '.join(FEATURIZERS)}")
    return FEATURIZERS[name]


def encode(mols: Sequence[Chem.Mol], name: str) -> Encoded:
    """The molecules by the featurizer called `name`, as codes."""
    chosen = featurizer(name)
    codes: list[int] = []
    charges = [np.zeros((0, len(chosen.continuous)), dtype=np.float32)]
    with BlockLogs():
        for mol in mols:
            atoms = atoms_of(mol)
            codes += chosen.atom_codes(mol, atoms)
            if chosen.continuous:
                names = CHARGES[: len(chosen.continuous)]
                charges.append(gasteiger_charges(mol, atoms, names))
        edges = chosen.edges(mols)
    return Encoded(
        _sizes(mols),
        np.array(codes, dtype=np.int32),
        np.concatenate(charges) if chosen.continuous else np.zeros((len(codes), 0), np.float32),
        *edges,
    )


def featurize(mol: Chem.Mol, name: str) -> Features:
    """The features of `mol` by the featurizer called `name`, equal to dgllife's bit for bit.

    Any molecule will do: a single atom has no bonds, salts and metals have their usual rows.
    """
    chosen, found = featurizer(name), encode([mol], name)
    atoms = chosen.atom_table.rows[found.atoms]
    if chosen.continuous:
        atoms[:, chosen.continuous] = found.charges
    return Features(atoms, found.src, found.dst, chosen.bond_table.rows[found.bonds])


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


def _sizes(mols: Sequence[Chem.Mol]) -> np.ndarray:
    return np.array([mol.GetNumAtoms() for mol in mols], dtype=np.int64)


def _each_atom(rows: Rows) -> AtomCodes:
    return lambda mol, atoms: rows(atoms)


def _bonds_both_ways(rows: Rows) -> Edges:
    def edges(mols: Sequence[Chem.Mol]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        counts: list[int] = []
        begin: list[int] = []
        end: list[int] = []
        codes: list[int] = []
        for mol in mols:
            bonds = bonds_of(mol)
            counts.append(len(bonds))
            begin += map(Bond.GetBeginAtomIdx, bonds)
            end += map(Bond.GetEndAtomIdx, bonds)
            codes += rows(bonds, _bond_types(mol, bonds))
        each = np.array(counts, dtype=np.int64)
        home = np.repeat(np.arange(len(counts)) << 40, each)
        src, dst = np.array([begin + end, end + begin], dtype=np.int32)
        order = np.argsort(np.concatenate([home, home]) | src.astype(np.int64) << 20 | dst)
        both = np.array(codes + codes, dtype=np.int32)
        return 2 * each, src[order], dst[order], both[order]

    return edges


def _bond_types(mol: Chem.Mol, bonds: Sequence[Bond]) -> list[float]:
    """A number for each type of bond; an enum takes four times as long to read as a float."""
    read = Bond.GetBondType if mol.HasSubstructMatch(_RARE_BOND) else Bond.GetBondTypeAsDouble
    return list(map(read, bonds))


def _all_pairs(pairs: Callable[[Chem.Mol], list[int]]) -> Edges:
    def edges(mols: Sequence[Chem.Mol]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        sizes = _sizes(mols)
        codes = np.array([code for mol in mols for code in pairs(mol)], dtype=np.int32)
        ends = [np.divmod(np.arange(V * V, dtype=np.int32), V) for V in sizes]
        src, dst = np.concatenate(ends, axis=1).astype(np.int32)
        return sizes**2, src, dst, codes

    return edges


def _attentivefp_codes(mol: Chem.Mol, atoms: Sequence[Atom]) -> list[int]:
    rare: list[Hashable] = [None] * len(atoms)
    found = mol.GetAtomsMatchingQuery(_RARE_ATOM)
    for i in range(len(found)):  # to iterate takes ten times as long
        atom = found[i]
        cip = atom.GetProp(_CIP) if atom.HasProp(_CIP) else ""
        charge, radicals = atom.GetFormalCharge(), atom.GetNumRadicalElectrons()
        rare[atom.GetIdx()] = charge, radicals, atom.HasProp(_CHIRAL), cip
    return _attentivefp_atoms(atoms, rare)


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
    Atom.GetTotalDegree,
)
_canonical_bonds = Rows(
    12,
    lambda dgllife: dgllife.CanonicalBondFeaturizer().featurizer_funcs["e"],
    Bond.GetIsConjugated,
    Bond.IsInRing,
    Bond.GetStereo,
)
_attentivefp_atoms = Rows(
    39,
    lambda dgllife: dgllife.AttentiveFPAtomFeaturizer().featurizer_funcs["h"],
    Atom.GetAtomicNum,
    Atom.GetDegree,
    Atom.GetHybridization,
    Atom.GetIsAromatic,
    Atom.GetTotalDegree,
)
_attentivefp_bonds = Rows(
    10,
    lambda dgllife: dgllife.AttentiveFPBondFeaturizer().featurizer_funcs["e"],
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
        atom_table=_canonical_atoms,
        bond_table=_canonical_bonds,
        atom_codes=_each_atom(_canonical_atoms),
        edges=_bonds_both_ways(_canonical_bonds),
    ),
    "attentivefp": Featurizer(
        "attentivefp",
        atom_size=39,
        bond_size=10,
        atom_table=_attentivefp_atoms,
        bond_table=_attentivefp_bonds,
        atom_codes=_attentivefp_codes,
        edges=_bonds_both_ways(_attentivefp_bonds),
    ),
    "weave": Featurizer(
        "weave",
        atom_size=27,
        bond_size=12,
        complete=True,
        continuous=(14,),
        atom_table=weave_atom_rows,
        bond_table=weave_pair_rows,
        atom_codes=weave_atom_codes,
        edges=_all_pairs(weave_pair_codes),
    ),
    "pagtn": Featurizer(
        "pagtn",
        atom_size=94,
        bond_size=42,
        complete=True,
        atom_table=_pagtn_atoms,
        bond_table=pagtn_pair_rows,
        atom_codes=_each_atom(_pagtn_atoms),
        edges=_all_pairs(pagtn_pair_codes),
    ),
    "compt": Featurizer(
        "compt",
        atom_size=115,
        bond_size=13,
        continuous=(111, 112),
        atom_table=compt_atom_rows,
        bond_table=compt_bond_rows,
        atom_codes=_each_atom(compt_atom_rows),
        edges=_bonds_both_ways(compt_bond_rows),
    ),
}
"""The featurizers by name, all of dgllife but `compt`, which composes dgllife's functions."""
