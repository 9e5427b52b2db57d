"""The atom and bond features of CoMPT, composed of dgllife's feature functions.

Atoms, 115 columns (a count or charge is divided by the number shown, so as to stay near one):

    0-100    atomic number 1 to 100, one-hot; 100: any other
    101-106  hybridization SP, SP2, SP3, SP3D, SP3D2, one-hot; 106: any other
    107-110  hydrogens / 8, neighbours / 4, formal charge / 8, total valence / 8
    111-112  Gasteiger charge of the atom, of its hydrogens
    113-114  aromatic, in a ring

Bonds, 13 columns:

    0-3      single, double, triple, aromatic, one-hot (a dative bond has none)
    4-9      stereo ANY, CIS, E, NONE, TRANS, Z, one-hot
    10-12    conjugated, aromatic, in a ring

Worked out from the published model's inputs, which these equal on every molecule at hand. Columns
that are zero in all of those are what the sizes and the order of their neighbours leave room for:
100, 104-106 and the elements not met (atoms), 4, 5, 8 and 9 (bonds).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

from rdkit.Chem import Atom, Bond, BondStereo

from molsam.molecules.rows import Row, Rows

_STEREO = [
    BondStereo.STEREOANY,
    BondStereo.STEREOCIS,
    BondStereo.STEREOE,
    BondStereo.STEREONONE,
    BondStereo.STEREOTRANS,
    BondStereo.STEREOZ,
]


def compt_atom_row(dgllife: ModuleType) -> Row:
    """The row of one atom, with its charges left at zero."""
    functions = [
        partial(dgllife.atomic_number_one_hot, encode_unknown=True),
        partial(dgllife.atom_hybridization_one_hot, encode_unknown=True),
        _divided(dgllife.atom_total_num_H, 8),
        _divided(dgllife.atom_degree, 4),
        _divided(dgllife.atom_formal_charge, 8),
        lambda atom: [atom.GetTotalValence() / 8],
        lambda atom: [0.0, 0.0],
        dgllife.atom_is_aromatic,
        dgllife.atom_is_in_ring,
    ]
    return dgllife.ConcatFeaturizer(functions)


def compt_bond_row(dgllife: ModuleType) -> Row:
    """The row of one bond."""
    functions = [
        dgllife.bond_type_one_hot,
        partial(dgllife.bond_stereo_one_hot, allowable_set=_STEREO),
        dgllife.bond_is_conjugated,
        lambda bond: [bond.GetIsAromatic()],
        dgllife.bond_is_in_ring,
    ]
    return dgllife.ConcatFeaturizer(functions)


def _divided(function: Callable[[Atom], list[int]], divisor: int) -> Row:
    return lambda atom: [value / divisor for value in function(atom)]


compt_atom_rows = Rows(
    115,
    compt_atom_row,
    Atom.GetAtomicNum,
    Atom.GetHybridization,
    Atom.GetTotalDegree,
    Atom.GetDegree,
    Atom.GetFormalCharge,
    Atom.GetTotalValence,
    Atom.GetIsAromatic,
    Atom.IsInRing,
)
compt_bond_rows = Rows(
    13,
    compt_bond_row,
    Bond.GetStereo,
    Bond.GetIsConjugated,
    Bond.GetIsAromatic,
    Bond.IsInRing,
)
