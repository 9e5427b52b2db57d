"""RDKit's costly descriptors, the same bit for bit: what several of them need is computed once.

A shortcut stands for descriptors of RDKit by name and gives their values. It is only taken where
it agrees with the installed RDKit on `PROBES`, and where it fails RDKit's own are asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem
from rdkit.Chem import (
    QED,
    FilterCatalog,
    Fragments,
    Graphs,
    rdMolDescriptors,
    rdPartialCharges,
)
from rdkit.Chem.EState import EState
from rdkit.ML.InfoTheory.entropy import InfoEntropy  # type: ignore[attr-defined]

from molsam.molecules.rows import atoms_of, bonds_of, ends_of

Values = Sequence[Any]

PROBES = (
    "C",
    "[Na+].[Cl-]",
    "[H][H].CC",
    "C[C@H](N)C(=O)N1CCC[C@@H]1C(=O)OCC/C=C/c1ccc2[nH]ccc2c1",
    "O=C(NS(=O)(=O)c1ccc(C#N)cc1)c1cc(F)c(OCC(F)(F)F)cc1Cl",
    "CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)[O-].[K+]",
    "O=[N+]([O-])c1ccc(OP(=O)(OCC)OCC)cc1.Br",
    "C1CC1N=[N+]=[N-].O=C1C=CC(=O)C=C1.[Fe]",
)


class Shortcut(NamedTuple):
    """Values of the descriptors `names` of a molecule."""

    names: tuple[str, ...]
    values: Callable[[Chem.Mol], Values]


def charge_extremes(mol: Chem.Mol) -> Values:
    """Largest, least, and both by magnitude, of the Gasteiger charges."""
    rdPartialCharges.ComputeGasteigerCharges(mol)
    low, high = 500.0, -500.0
    for atom in atoms_of(mol):
        charge = atom.GetDoubleProp("_GasteigerCharge")
        low, high = min(charge, low), max(charge, high)
    return high, low, max(abs(low), abs(high)), min(abs(low), abs(high))


def estate_extremes(mol: Chem.Mol) -> Values:
    """Largest, least, and both by magnitude, of the electrotopological states.

    S_i = I_i + sum_j (I_i - I_j) / r_ij^2: Hall, Mohney and Kier, J. Chem. Inf. Comput. Sci. 31
    (1991) 76. Left on the molecule, where RDKit's VSA descriptors look for them.
    """
    table = Chem.GetPeriodicTable()
    intrinsic = np.zeros(mol.GetNumAtoms())
    for i, atom in enumerate(atoms_of(mol)):
        degree, number = atom.GetDegree(), atom.GetAtomicNum()
        if degree:
            valence = table.GetNOuterElecs(number) - atom.GetTotalNumHs()
            shell = EState.GetPrincipleQuantumNumber(number)
            intrinsic[i] = (4.0 / (shell * shell) * valence + 1) / degree
    steps = Chem.GetDistanceMatrix(mol, useBO=False, useAtomWts=False) + 1
    terms = (intrinsic[:, None] - intrinsic) / (steps * steps)
    terms[steps >= 1e6] = 0
    # A running sum adds in RDKit's order, `sum` in another.
    states = np.cumsum(terms, axis=1)[:, -1] + intrinsic
    mol._eStateIndices = states
    sizes = np.abs(states)
    return states.max(), states.min(), sizes.max(), sizes.min()


def information(mol: Chem.Mol) -> Values:
    """Information content of the characteristic polynomial, and its average a coefficient."""
    steps = Chem.GetDistanceMatrix(mol, False)
    coefficients = abs(Graphs.CharacteristicPolynomial(mol, (steps == 1).astype(float)))
    average = InfoEntropy(coefficients)
    return sum(coefficients) * average, average


def balaban(mol: Chem.Mol) -> Values:
    """J = q / (mu + 1) sum_ij (s_i s_j)^-1/2: Balaban, Chem. Phys. Lett. 89 (1982) 399."""
    reach: Any = sum(Chem.GetDistanceMatrix(mol, useBO=True, useAtomWts=False, prefix="Balaban"))
    joined = Chem.GetAdjacencyMatrix(mol, useBO=False, emptyVal=0, prefix="NoBO") == 1
    first, second = np.nonzero(np.triu(joined))
    terms = np.cumsum(1.0 / np.sqrt(reach[first] * reach[second]))
    bonds = mol.GetNumBonds()
    cycles = bonds - mol.GetNumAtoms() + 1
    total = terms[-1] if len(terms) else 0.0
    return (float(bonds) / float(cycles + 1) * total if cycles + 1 else 0,)


def bertz(mol: Chem.Mol) -> Values:
    """Complexity of bonding and of heteroatoms: Bertz, J. Am. Chem. Soc. 103 (1981) 3599.

    Entropies of the pairs of bonds, by the symmetry classes of their atoms, and of the elements.
    Counts are kept in the order of RDKit's loops, since the entropy depends on it in its last bit.
    """
    count = mol.GetNumAtoms()
    if count < 2:
        return (0,)
    paths = Chem.GetDistanceMatrix(mol, True, False, True, "Balaban")
    rows = np.round(np.sort(paths, axis=1)[:, :100] * 1e4)
    known: dict[bytes, int] = {}
    kind = [known.setdefault(row.tobytes(), len(known)) for row in rows]
    near: list[list[tuple[int, float]]] = [[] for _ in range(count)]
    bonds = bonds_of(mol)
    for bond, i, j in zip(bonds, *ends_of(bonds), strict=True):
        order = 1.5 if bond.GetIsAromatic() else bond.GetBondTypeAsDouble()
        near[i].append((j, order))
        near[j].append((i, order))
    elements: dict[int, int] = {}
    pairs: dict[tuple[int, ...], float] = {}
    for i, atom in enumerate(atoms_of(mol)):
        element, own, others = atom.GetAtomicNum(), kind[i], sorted(near[i])
        elements[element] = elements.get(element, 0) + 1
        for place, (j, order) in enumerate(others):
            one = kind[j]
            if order > 1 and j > i:
                key = (own, one) if own < one else (one, own)
                pairs[key] = pairs.get(key, 0) + order * (order - 1) / 2
            for k, next_order in others[place + 1 :]:
                two = kind[k]
                key = (one, own, two) if one < two else (two, own, one)
                pairs[key] = pairs.get(key, 0) + order * next_order
    connections = list(pairs.values()) or [1]
    total = sum(connections)
    bonding = _entropy(connections) + math.log(total) / math.log(2)
    return (count * _entropy(list(elements.values())) + total * bonding,)


def _entropy(counts: list[float]) -> float:
    return InfoEntropy(np.array(counts, dtype=float))


def sums(mol: Chem.Mol) -> Values:
    """Valence electrons, radical electrons, and Chi0 and Chi1.

    Hall and Kier, Rev. Comput. Chem. 2 (1991) 367: sums of (d_i)^-1/2 and of (d_i d_j)^-1/2.
    """
    table, atoms = Chem.GetPeriodicTable(), atoms_of(mol)
    valence = sum(
        table.GetNOuterElecs(atom.GetAtomicNum()) - atom.GetFormalCharge() + atom.GetTotalNumHs()
        for atom in atoms
    )
    degrees = np.array(list(map(Chem.Atom.GetDegree, atoms)), dtype=float)
    first, second = ends_of(bonds_of(mol))
    products = degrees[first] * degrees[second] if first else degrees[:0]
    radicals = sum(map(Chem.Atom.GetNumRadicalElectrons, atoms))
    return valence, radicals, _inverse_roots(degrees[degrees > 0]), _inverse_roots(products)


def _inverse_roots(values: np.ndarray) -> float:
    return np.cumsum(np.sqrt(1.0 / values))[-1] if len(values) else 0


def spatial_score(mol: Chem.Mol) -> Values:
    """Krzyzanowski et al., J. Med. Chem. 66 (2023) 12739: sum of h s r n^2, a heavy atom."""
    mol = Chem.Mol(mol)
    Chem.FindPotentialStereoBonds(mol)
    stereo = {
        end
        for bond in bonds_of(mol)
        if bond.GetBondType() == Chem.BondType.DOUBLE
        and bond.GetStereo() != Chem.BondStereo.STEREONONE
        for end in (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
    }
    centres = Chem.FindMolChiralCenters(
        mol, includeUnassigned=True, includeCIP=False, useLegacyImplementation=False
    )
    stereo.update(i for i, _ in centres)
    score = 0
    for i, atom in enumerate(atoms_of(mol)):
        shape = _SHAPES.get(atom.GetHybridization(), 4)
        ring = 2 if atom.IsInRing() and not atom.GetIsAromatic() else 1
        score += shape * (2 if i in stereo else 1) * ring * atom.GetDegree() ** 2
    return (score / mol.GetNumHeavyAtoms(),)


_SHAPES = {
    Chem.HybridizationType.SP: 1,
    Chem.HybridizationType.SP2: 2,
    Chem.HybridizationType.SP3: 3,
}


def drug_likeness(mol: Chem.Mol) -> Values:
    """QED (Bickerton et al., Nat. Chem. 4 (2012) 90), and what it is made of but for its alerts."""
    if any(atom.GetAtomicNum() == 1 for atom in atoms_of(mol)):
        raise NotImplementedError("QED is of the molecule without its explicit hydrogens")
    strict = rdMolDescriptors.NumRotatableBondsOptions.Strict
    found: Any = QED.QEDproperties(
        MW=rdMolDescriptors._CalcMolWt(mol),
        ALOGP=rdMolDescriptors.CalcCrippenDescriptors(mol)[0],
        HBA=sum(len(mol.GetSubstructMatches(acceptor)) for acceptor in QED.Acceptors),
        HBD=rdMolDescriptors.CalcNumHBD(mol),
        PSA=rdMolDescriptors.CalcTPSA(mol),
        ROTB=rdMolDescriptors.CalcNumRotatableBonds(mol, strict),
        AROM=len(Chem.GetSSSR(Chem.DeleteSubstructs(Chem.Mol(mol), QED.AliphaticRings))),
        ALERTS=len(_catalog("alerts").GetMatches(mol)),
    )
    likeness = QED.qed(mol, qedProperties=found)
    return likeness, found.MW, found.ALOGP, found.HBD, found.PSA, found.ROTB


def fragments(mol: Chem.Mol) -> Values:
    """How often each of `Fragments.fns` occurs."""
    queries = _queries()["fragments"]
    counts = [0] * len(queries)
    for place in _found("fragments", mol):
        counts[place] = len(mol.GetSubstructMatches(queries[place]))
    return counts


@cache
def _catalog(which: str) -> FilterCatalog.FilterCatalog:
    """Queries in one search; the description of an entry is the place of its query."""
    catalog = FilterCatalog.FilterCatalog()
    for place, query in enumerate(_queries()[which]):
        matcher = FilterCatalog.SmartsMatcher(which, query, 1)
        catalog.AddEntry(FilterCatalog.FilterCatalogEntry(str(place), matcher))
    return catalog


@cache
def _queries() -> dict[str, list[Chem.Mol]]:
    counted = [function.__defaults__[-1] for _, function in Fragments.fns]
    return {"fragments": counted, "alerts": QED.StructuralAlerts}


def _found(which: str, mol: Chem.Mol) -> list[int]:
    """Places of the queries that `mol` matches."""
    return [int(entry.GetDescription()) for entry in _catalog(which).GetMatches(mol)]


def surface(name: str, bins: int) -> Shortcut:
    """Labute's surface by bins of a property, all at once: J. Mol. Graph. Model. 18 (2000) 464."""
    names = tuple(f"{name}{i}" for i in range(1, bins + 1))
    return Shortcut(names, lambda mol: getattr(rdMolDescriptors, f"{name}_")(mol, force=False))


SHORTCUTS = (
    Shortcut(
        ("MaxPartialCharge", "MinPartialCharge", "MaxAbsPartialCharge", "MinAbsPartialCharge"),
        charge_extremes,
    ),
    Shortcut(
        ("MaxEStateIndex", "MinEStateIndex", "MaxAbsEStateIndex", "MinAbsEStateIndex"),
        estate_extremes,
    ),
    Shortcut(("Ipc", "AvgIpc"), information),
    Shortcut(("BalabanJ",), balaban),
    Shortcut(("BertzCT",), bertz),
    Shortcut(("NumValenceElectrons", "NumRadicalElectrons", "Chi0", "Chi1"), sums),
    Shortcut(("SPS",), spatial_score),
    Shortcut(("qed", "MolWt", "MolLogP", "NumHDonors", "TPSA", "NumRotatableBonds"), drug_likeness),
    Shortcut(tuple(name for name, _ in Fragments.fns), fragments),
    surface("SMR_VSA", 10),
    surface("SlogP_VSA", 12),
    surface("PEOE_VSA", 14),
)
"""Taken in this order: the states of `estate_extremes` serve descriptors of RDKit's own."""
