"""Molecules to features, distances and graphs: dgllife is the reference."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from odd_molecules import ODD, TABLES, assert_same, sample, smiles_of
from rdkit import Chem
from rdkit.Chem import AllChem
from rdkit.rdBase import BlockLogs
from safetensors import safe_open

from molsam import molecules
from molsam.batches import PackedMolecules
from molsam.molecules import FEATURIZERS, Features, featurize, parse, parse_many
from molsam.molecules.compt import compt_atom_row, compt_bond_row
from molsam.molecules.libraries import dgllife_featurizers
from molsam.molecules.rows import Rows, Table

# The reference: dgllife's featurizers, called as dgllife calls them, bonds put in our order.


def finite_charge(name: str):
    def row(atom: Chem.Atom) -> list[float]:
        charge = float(atom.GetProp(name))
        return [charge if np.isfinite(charge) else 0.0]

    return row


@cache
def dgllife_pair(name: str):
    f = dgllife_featurizers()
    if name != "compt":
        family = {"canonical": "Canonical", "attentivefp": "AttentiveFP"}.get(name)
        if family:
            atoms, bonds = f"{family}AtomFeaturizer", f"{family}BondFeaturizer"
        else:
            family = {"weave": "Weave", "pagtn": "PAGTN"}[name]
            atoms, bonds = f"{family}AtomFeaturizer", f"{family}EdgeFeaturizer"
        return getattr(f, atoms)(), getattr(f, bonds)()
    columns = list(compt_atom_row(f).func_list)
    columns[6:7] = [finite_charge("_GasteigerCharge"), finite_charge("_GasteigerHCharge")]
    return (
        f.BaseAtomFeaturizer({"h": f.ConcatFeaturizer(columns)}),
        f.BaseBondFeaturizer({"e": compt_bond_row(f)}),
    )


def plain(mol: Chem.Mol, name: str) -> Features:
    atom_featurizer, bond_featurizer = dgllife_pair(name)
    with BlockLogs():
        AllChem.ComputeGasteigerCharges(mol)
        atoms = atom_featurizer(mol)["h"].numpy()
        rows = bond_featurizer(mol)
    if FEATURIZERS[name].complete:
        ends = list(np.ndindex(len(atoms), len(atoms)))
    else:
        bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
        ends = [pair for i, j in bonds for pair in ((i, j), (j, i))]
    if not ends:
        none = np.zeros(0, dtype=np.int32)
        return Features(atoms, none, none, np.zeros((0, FEATURIZERS[name].bond_size), np.float32))
    order = sorted(range(len(ends)), key=ends.__getitem__)
    src, dst = np.array(ends, dtype=np.int32)[order].T
    return Features(atoms, src, dst, rows["e"].numpy()[order])


# Features


@pytest.mark.filterwarnings("ignore:Creating a tensor from a list")
@pytest.mark.parametrize("name", FEATURIZERS)
@pytest.mark.parametrize("table", TABLES)
def test_features_are_those_of_dgllife(moleculenet, table, name):
    number, atoms = (8, 40) if name == "pagtn" else (40, 1000)
    for mol in sample(moleculenet / f"{table}.csv", number, seed=2, atoms=atoms):
        assert_same(featurize(mol, name), plain(mol, name), Chem.MolToSmiles(mol))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.filterwarnings("ignore:Creating a tensor from a list")
@pytest.mark.parametrize("name", FEATURIZERS)
@pytest.mark.parametrize("table", TABLES)
def test_features_of_a_whole_table_are_those_of_dgllife(moleculenet, table, name):
    for text in smiles_of(moleculenet / f"{table}.csv"):
        for mol in parse_many([text]).mols:
            assert_same(featurize(mol, name), plain(mol, name), text)


@pytest.mark.filterwarnings("ignore:Creating a tensor from a list")
@pytest.mark.parametrize("name", FEATURIZERS)
@pytest.mark.parametrize("smiles", ODD)
def test_features_of_odd_molecules_are_those_of_dgllife(smiles, name):
    mol = parse(smiles)
    features, featurizer = featurize(mol, name), FEATURIZERS[name]
    assert_same(features, plain(mol, name), smiles)
    assert features.atoms.shape == (mol.GetNumAtoms(), featurizer.atom_size)
    assert features.bonds.shape == (len(features.src), featurizer.bond_size)
    assert np.isfinite(features.atoms).all()


@pytest.mark.parametrize("name", FEATURIZERS)
def test_edges_go_both_ways_in_order(moleculenet, name):
    for mol in sample(moleculenet / "tox21.csv", 10, seed=3):
        _, src, dst, bonds = featurize(mol, name)
        V = mol.GetNumAtoms()
        pairs = src.astype(int) * V + dst
        assert (np.diff(pairs) > 0).all()
        if FEATURIZERS[name].complete:
            assert len(pairs) == V * V
        else:
            assert (src != dst).all()
            assert len(pairs) == 2 * mol.GetNumBonds()
            back = np.argsort(dst.astype(int) * V + src)
            np.testing.assert_array_equal(bonds, bonds[back])


@pytest.mark.parametrize("name", FEATURIZERS)
def test_the_largest_peptide_has_features(moleculenet, name):
    longest = sorted(smiles_of(moleculenet / "sider.csv"), key=len)[-5:]
    mol = max(parse_many(longest).mols, key=Chem.Mol.GetNumAtoms)
    V = mol.GetNumAtoms()
    assert V == 492
    features = featurize(mol, name)
    assert features.atoms.shape == (V, FEATURIZERS[name].atom_size)
    assert np.isfinite(features.bonds).all()


def test_columns_that_are_not_continuous_take_few_values(moleculenet):
    mols = sample(moleculenet / "lipophilicity.csv", 50, seed=4)
    for name, featurizer in FEATURIZERS.items():
        atoms = np.concatenate([featurize(mol, name).atoms for mol in mols])
        many = [i for i, column in enumerate(atoms.T) if len(np.unique(column)) > 20]
        assert tuple(many) == featurizer.continuous, name


@pytest.mark.parametrize("file", ["compt_exp_layernorm", "compt_softmax_scalenorm"])
@pytest.mark.parametrize("inputs", ["padded", "unpadded"])
def test_compt_features_are_the_published_ones(parity, file, inputs):
    with safe_open(parity / f"{file}.safetensors", "numpy") as fixture:
        smiles = json.loads(fixture.metadata()["meta"])[inputs]
        names = ("atom_features", "bond_features", "distance")
        published = [fixture.get_tensor(f"{inputs}.{name}") for name in names]
    for i, text in enumerate(smiles):
        mol = Chem.MolFromSmiles(text)  # the published order is that of the text
        V = mol.GetNumAtoms()
        atoms, src, dst, bonds = featurize(mol, "compt")
        dense = np.zeros((V, V, 13), dtype=np.float32)
        dense[src, dst] = bonds
        np.testing.assert_array_equal(published[0][i, :V], atoms)
        np.testing.assert_array_equal(published[1][i, :V, :V], dense)
        np.testing.assert_array_equal(published[2][i, :V, :V], molecules.distances(mol))


def test_sizes_and_versions():
    versions = {featurizer.version for featurizer in FEATURIZERS.values()}
    assert len(versions) == 1
    assert "dgllife" in versions.pop()
    for name, featurizer in FEATURIZERS.items():
        assert featurizer.name == name
        if name in ("canonical", "attentivefp", "weave", "pagtn"):
            sizes = [make.feat_size() for make in dgllife_pair(name)]
            assert [featurizer.atom_size, featurizer.bond_size] == sizes


def test_an_unknown_featurizer_is_an_error_that_names_the_known():
    with pytest.raises(ValueError, match="no featurizer 'morgan': choose from canonical, "):
        featurize(parse("C"), "morgan")


def test_a_row_is_made_once():
    made = []

    def function(dgllife):
        return lambda atom: made.append(atom.GetIdx()) or [atom.GetAtomicNum(), atom.GetDegree()]

    rows = Rows(2, function, Chem.Atom.GetAtomicNum, Chem.Atom.GetDegree)
    atoms = list(parse("CCCCO").GetAtoms())
    expected = np.array([[atom.GetAtomicNum(), atom.GetDegree()] for atom in atoms], np.float32)
    for _ in range(2):
        codes = rows(atoms)
        np.testing.assert_array_equal(rows.rows[codes], expected)
    assert len(made) == 3
    assert rows([]) == []


def test_a_table_keeps_each_row_once_and_grows():
    rows = np.random.default_rng(0).integers(-3, 4, (1000, 3)).astype(np.float32)
    table = Table(3)
    codes = [table.add(row) for row in rows]
    np.testing.assert_array_equal(table.rows[codes], rows)
    assert not table.rows[0].any()
    assert len(table.rows) == len({*map(tuple, rows), (0, 0, 0)})
    assert [table.add(row) for row in rows] == codes


@pytest.mark.parametrize("name", FEATURIZERS)
def test_features_belong_to_the_caller(name):
    mol = parse("CC(=O)Oc1ccccc1")
    expected = featurize(mol, name)
    spoiled = featurize(mol, name)
    for array in spoiled:
        array[:] = 7
    assert_same(featurize(mol, name), expected, name)


# Distances and graphs


def distance_twin(mol: Chem.Mol) -> np.ndarray:
    """Floyd, Comm. ACM 5 (1962) 345."""
    V = mol.GetNumAtoms()
    d = np.full((V, V), np.inf)
    np.fill_diagonal(d, 0)
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        d[i, j] = d[j, i] = 1
    for k in range(V):
        d = np.minimum(d, d[:, k, None] + d[None, k])
    return np.where(np.isinf(d), -1, d)


@pytest.mark.parametrize("smiles", [*ODD, "C1CC2CCC1C2.CCO", "CC(=O)Oc1ccccc1C(=O)O"])
def test_distances_are_shortest_paths(smiles):
    mol = parse(smiles)
    d = molecules.distances(mol)
    assert d.dtype == np.int16
    np.testing.assert_array_equal(d, distance_twin(mol))


@pytest.mark.parametrize(
    "smiles",
    [
        *ODD,
        "C" * 300 + ".[Na+]",
        "C" * 64,
        "C" * 65,
        "C" * 128 + ".CC",
        "C1" + "C" * 130 + "1" + "CC(C)(C)c1ccccc1" * 8,
        ".".join(["C"] * 100),
    ],
)
def test_distances_of_large_molecules(smiles):
    np.testing.assert_array_equal(molecules.distances(parse(smiles)), distance_twin(parse(smiles)))


@pytest.mark.parametrize("name", ["canonical", "weave"])
def test_distances_of_a_pack_are_those_of_its_molecules(name):
    smiles = [*ODD, "C" * 300 + ".[Na+]", "C" * 64, "C" * 65, "C1" + "C" * 130 + "1", "CC.CCO", "C"]
    mols = parse_many(smiles[::2] + smiles[1::2]).mols
    found = molecules.encode(mols, "canonical")
    expected = np.concatenate([distance_twin(mol).ravel() for mol in mols])
    for bonds in (molecules.bond_ends(mols), (found.edges, found.src, found.dst)):
        paths = molecules.shortest_paths(found.sizes, *bonds)
        np.testing.assert_array_equal(paths, expected)
    packed = PackedMolecules.from_mols(mols[::7], name)
    own = np.concatenate([molecules.distances(mol).ravel() for mol in mols[::7]])
    np.testing.assert_array_equal(packed.distances, own)


@pytest.mark.parametrize("name", FEATURIZERS)
@pytest.mark.parametrize("smiles", ["CC(=O)Oc1ccccc1", "[Na+].[Cl-]", "C"])
def test_a_dgl_graph_holds_the_features(smiles, name):
    mol = parse(smiles)
    graph = molecules.to_dgl(mol, name)
    src, dst = graph.edges()
    held = (graph.ndata["h"], src, dst, graph.edata["e"])
    assert_same(Features(*(tensor.numpy() for tensor in held)), featurize(mol, name), name)
    assert graph.num_nodes() == mol.GetNumAtoms()
    batch = molecules.dgl().batch([graph, graph])
    assert batch.batch_num_nodes().tolist() == [mol.GetNumAtoms()] * 2
