"""The shortcuts to RDKit's descriptors against RDKit's own functions."""

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors
from rdkit.rdBase import BlockLogs

from molsam import molecules
from molsam.molecules import parse_many, properties
from molsam.molecules.shortcuts import PROBES, SHORTCUTS, Shortcut

ODD = [
    "[H]",
    "[H][H]",
    "[2H]OC",
    "[Na+].[Cl-]",
    "*CC*",
    "[Fe+2].[O-2]",
    "[NH3]->[Pt](Cl)(Cl)<-[NH3]",
    "C1CC1(F)C#N",
    "C/C=C/C=C\\C",
    "[C-]#[O+]",
    "O=S(=O)(c1ccccc1)[N-]c1cc[nH]c1.[K+]",
    "C" * 130,
    "c1ccc2c(c1)c1ccccc1c1ccccc21",
    "C[Si](C)(C)[SeH]",
    "[13CH3][C@@H](O)[18OH]",
    "C[CH2]",
    "[B-](F)(F)(F)F.CCCCn1cc[n+](C)c1",
]


def by_rdkit(mol):
    """The literal loop, on an object that nobody has used."""
    mol = Chem.Mol(mol)
    with BlockLogs(), np.errstate(all="ignore"):
        return np.array([one_by_rdkit(f, mol) for _, f in Descriptors._descList])


def one_by_rdkit(function, mol):
    try:
        return float(function(mol))
    except Exception:
        return np.nan


def assert_same(mols):
    for mol in mols:
        ours, theirs = molecules.descriptors(mol), by_rdkit(mol)
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        names = np.array(molecules.DESCRIPTORS)[~same].tolist()
        assert not names, f"{Chem.MolToSmiles(mol)}: {names}, {ours[~same]}, {theirs[~same]}"


@pytest.mark.parametrize("smiles", [*PROBES, *ODD])
def test_odd_molecules_have_rdkits_values(smiles):
    assert_same([Chem.MolFromSmiles(smiles), *parse_many([smiles]).mols])


def test_explicit_hydrogens_have_rdkits_values():
    assert_same([Chem.AddHs(Chem.MolFromSmiles(smiles)) for smiles in PROBES])


@pytest.mark.parametrize(
    ("table", "column"),
    [("lipophilicity", "smiles"), ("hiv", "smiles"), ("clintox", "smiles"), ("tox21", "smiles")],
)
def test_real_molecules_have_rdkits_values(moleculenet, table, column):
    smiles = pd.read_csv(moleculenet / f"{table}.csv", usecols=[column])[column]
    assert_same(parse_many(smiles.sample(60, random_state=0)).mols)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["lipophilicity", "hiv", "clintox", "tox21", "sider", "bbbp"])
def test_many_real_molecules_have_rdkits_values(moleculenet, table):
    smiles = pd.read_csv(moleculenet / f"{table}.csv", usecols=["smiles"])["smiles"]
    assert_same(parse_many(smiles.sample(1400, random_state=1)).mols)


def test_all_shortcuts_are_taken_with_this_rdkit():
    assert properties._shortcuts() == SHORTCUTS


def test_a_molecule_is_left_as_it_was():
    mol = Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O")
    first = molecules.descriptors(mol)
    assert not vars(mol)
    mol.GetAtomWithIdx(0).SetAtomicNum(7)
    Chem.SanitizeMol(mol)
    assert (molecules.descriptors(mol) != first).sum() > 10


@pytest.fixture
def fresh_shortcuts():
    properties._shortcuts.cache_clear()
    yield
    properties._shortcuts.cache_clear()


@pytest.mark.usefixtures("fresh_shortcuts")
def test_a_shortcut_that_disagrees_with_rdkit_is_not_taken(monkeypatch):
    wrong = Shortcut(("TPSA",), lambda mol: (Descriptors.TPSA(mol) + (mol.GetNumAtoms() > 20),))
    unknown = Shortcut(("NoDescriptor",), lambda mol: (1.0,))
    monkeypatch.setattr(properties, "SHORTCUTS", (wrong, unknown, *SHORTCUTS))
    assert properties._shortcuts() == SHORTCUTS


@pytest.mark.usefixtures("fresh_shortcuts")
def test_where_a_shortcut_fails_rdkit_is_asked(monkeypatch):
    def fails(mol):
        raise RuntimeError

    names = tuple(name for shortcut in SHORTCUTS for name in shortcut.names)
    monkeypatch.setattr(properties, "SHORTCUTS", (Shortcut(names, fails),))
    assert_same([Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O")])
