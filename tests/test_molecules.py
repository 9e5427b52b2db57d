"""SMILES to molecules to features: dgllife is the reference, and spelling must not matter."""

from __future__ import annotations

import csv
import gc
import gzip
import json
import os
import pickle
import subprocess
import sys
from functools import cache
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, RDConfig
from rdkit.Chem import AllChem, Descriptors
from rdkit.Chem.Scaffolds import MurckoScaffold
from rdkit.rdBase import BlockLogs, LogStatus
from safetensors import safe_open

from molsam import molecules
from molsam.batches import PackedMolecules
from molsam.molecules import (
    FEATURIZERS,
    Features,
    InvalidMolecule,
    featurize,
    parse,
    parse_many,
)
from molsam.molecules.compt import compt_atom_row, compt_bond_row
from molsam.molecules.libraries import dgllife_featurizers
from molsam.molecules.rows import Rows, Table

ROOT = Path(__file__).resolve().parents[1]
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


def spellings(mol: Chem.Mol, seed: int) -> list[str]:
    """The same molecule from other atoms, in other directions, Kekulé, and with hydrogens."""
    kekule = Chem.Mol(mol)
    Chem.Kekulize(kekule)
    return [
        *Chem.MolToRandomSmilesVect(mol, 3, randomSeed=seed),
        *Chem.MolToRandomSmilesVect(kekule, 1, randomSeed=seed, kekuleSmiles=True),
        *Chem.MolToRandomSmilesVect(mol, 1, randomSeed=seed, allHsExplicit=True),
        *Chem.MolToRandomSmilesVect(mol, 1, randomSeed=seed, allBondsExplicit=True),
    ]


def assert_same(left: Features, right: Features, what: str) -> None:
    for name, a, b in zip(Features._fields, left, right, strict=True):
        assert a.dtype == b.dtype, (what, name)
        np.testing.assert_array_equal(a, b, err_msg=f"{what}: {name}")


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


# Parsing


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("CN(C)(C)C", "Explicit valence for atom # 1 N, 4, is greater than permitted"),
        ("c1cccc1", "Can't kekulize mol"),
        ("CC(", "not valid SMILES"),
        ("C1CC", "not valid SMILES"),
        ("ethanol", "not valid SMILES"),
        ("CC\N{EN DASH}CC", r"not valid SMILES: it holds '\u2013'"),
        ("C \ud800", "RDKit fails on it"),
        ("", "empty"),
        ("  \t", "empty"),
        (None, "missing"),
        (float("nan"), "missing"),
        (7, "int, not text"),
    ],
)
def test_what_is_no_molecule_is_refused_with_its_reason(smiles, reason):
    with pytest.raises(InvalidMolecule) as caught:
        parse(smiles, row=12)
    error = caught.value
    assert reason in error.reason
    assert error.row == 12
    assert str(error).startswith("row 12: ")
    assert error.reason in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    among_others = parse_many(["CCO", smiles, "CC"])
    assert among_others.index.tolist() == [0, 2]
    assert [(e.row, e.reason) for e in among_others.errors] == [(2, error.reason)]


def test_a_long_text_is_shortened_in_the_message():
    with pytest.raises(InvalidMolecule) as caught:
        parse("C" * 5000 + "(")
    assert len(str(caught.value)) < 250
    assert caught.value.row is None


@settings(deadline=None)
@given(st.text(alphabet="CNOcno[]()=#123@+-.:/\\H* é\0", max_size=12))
def test_any_text_is_a_molecule_or_an_invalid_molecule(text):
    try:
        mol = parse(text)
    except InvalidMolecule:
        return
    assert featurize(mol, "canonical").atoms.shape == (mol.GetNumAtoms(), 74)


def test_parse_many_keeps_good_and_bad_rows_apart(moleculenet):
    smiles = smiles_of(moleculenet / "bbbp.csv")
    mols, index, errors = parse_many(smiles)
    bad = [error.row - 1 for error in errors]
    assert len(bad) == 11
    assert sorted([*index, *bad]) == list(range(len(smiles)))
    assert all(error.smiles == smiles[i] for i, error in zip(bad, errors, strict=True))
    for i in range(0, len(mols), 100):
        assert Chem.MolToSmiles(mols[i]) == Chem.CanonSmiles(smiles[index[i]])


def test_nothing_is_written_and_rdkit_logs_as_before(capfd):
    before = LogStatus()
    parse_many(["CC(", "CN(C)(C)C", "c1cccc1", "[H]", "", None])
    for smiles in ODD:
        mol = parse(smiles, salts="largest", charges="neutralize")
        molecules.descriptors(mol)
        for name in FEATURIZERS:
            featurize(mol, name)
    assert capfd.readouterr() == ("", "")
    assert LogStatus() == before
    Chem.MolFromSmiles("CC(")
    assert "Parse Error" in capfd.readouterr().err


def test_salts():
    acetate = "CC(=O)[O-].[Na+]"
    assert Chem.MolToSmiles(parse(acetate)) == acetate
    assert Chem.MolToSmiles(parse(acetate, salts="largest")) == "CC(=O)[O-]"
    assert Chem.MolToSmiles(parse("CCO", salts="refuse")) == "CCO"
    with pytest.raises(InvalidMolecule, match=r"row 4: .*2 fragments"):
        parse(acetate, row=4, salts="refuse")
    with pytest.raises(ValueError, match="salts must be one of keep, largest, refuse"):
        parse(acetate, salts="drop")  # type: ignore[arg-type]


def test_charges():
    assert Chem.MolToSmiles(parse("CC(=O)[O-]", charges="neutralize")) == "CC(=O)O"
    assert Chem.MolToSmiles(parse("C[NH3+].[Cl-]", charges="neutralize")) == "CN.Cl"
    assert Chem.MolToSmiles(parse("C[N+](C)(C)C", charges="neutralize")) == "C[N+](C)(C)C"
    with pytest.raises(ValueError, match="charges must be one of keep, neutralize"):
        parse("C", charges="drop")  # type: ignore[arg-type]


# One molecule, one graph


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CC", "[CH3][CH3]"),
        ("CCO", "OCC"),
        ("CCO", "[H]OC([H])([H])C([H])([H])[H]"),
        ("c1ccccc1C", "CC1=CC=CC=C1"),
        ("C[C@H](N)C(=O)O", "N[C@@H](C)C(O)=O"),
        ("F/C=C/Br", "Br\\C=C\\F"),
        ("[CH3:1][OH:2]", "CO"),
        ("[Na+].[Cl-]", "[Cl-].[Na+]"),
        (" CCO ", "CCO ethanol"),
        ("[NH3]->[Co+3]", "[Co+3]<-[NH3]"),
    ],
)
def test_two_spellings_give_one_graph(one, other):
    for name in FEATURIZERS:
        assert_same(featurize(parse(one), name), featurize(parse(other), name), name)


@pytest.mark.parametrize("table", TABLES)
def test_any_spelling_gives_one_graph(moleculenet, table):
    for mol in sample(moleculenet / f"{table}.csv", 10, seed=1, atoms=60):
        expected = {name: featurize(mol, name) for name in FEATURIZERS}
        for smiles in spellings(mol, seed=7):
            other = parse(smiles)
            for name, features in expected.items():
                assert_same(features, featurize(other, name), f"{smiles} {name}")


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(ODD), st.integers(1, 10_000))
def test_any_spelling_of_odd_molecules_gives_one_graph(smiles, seed):
    mol = parse(smiles)
    for other in spellings(mol, seed):
        for name in FEATURIZERS:
            assert_same(featurize(mol, name), featurize(parse(other), name), f"{other} {name}")


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


# Libraries


def run(code: str, home: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, with that home and those folders first on its path."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DGL")}
    environment |= {"HOME": str(home), "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}
    command = [sys.executable, "-W", "error", "-c", dedent(code)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_dgl_comes_quietly_and_leaves_the_home_folder_alone(tmp_path):
    done = run(
        """
        import sys
        from molsam import molecules
        heavy = {"torch", "dgl", "dgllife", "pandas", "sklearn"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        molecules.to_dgl(molecules.parse("CCO"), "canonical")
        assert not {"dgllife", "sklearn", "hyperopt"} & set(sys.modules)
        assert molecules.dgl() is sys.modules["dgl"]
        """,
        tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("built_for", ["this torch", "another torch"])
def test_graphbolt_is_left_out_only_where_it_cannot_load(tmp_path, built_for):
    import torch

    version = torch.__version__.split("+")[0] if built_for == "this torch" else "0.4.1"
    graphbolt = tmp_path / "dgl" / "graphbolt"
    graphbolt.mkdir(parents=True)
    (tmp_path / "dgl" / "__init__.py").write_text("from . import graphbolt\n")
    (graphbolt / f"libgraphbolt_pytorch_{version}.so").touch()
    library = graphbolt / f"libgraphbolt_pytorch_{torch.__version__.split('+')[0]}.so"
    (graphbolt / "__init__.py").write_text(
        f"from pathlib import Path\nassert Path({str(library)!r}).exists()\nreal = True\n"
    )
    done = run(
        "from molsam import molecules; print(hasattr(molecules.dgl().graphbolt, 'real'))",
        tmp_path,
        tmp_path,
    )
    assert done.stdout.strip() == str(built_for == "this torch"), done.stderr


# Whole molecules


def test_descriptors_are_those_of_rdkit():
    mol = parse("CC(=O)Oc1ccccc1C(=O)O")
    expected = Descriptors.CalcMolDescriptors(mol)
    assert len(set(molecules.DESCRIPTORS)) == len(molecules.DESCRIPTORS) > 200
    values = molecules.descriptors(mol)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, [expected[name] for name in molecules.DESCRIPTORS])


def test_a_descriptor_that_fails_is_nan(monkeypatch):
    def fails(mol):
        raise ZeroDivisionError

    functions = [("fails", fails), ("works", lambda mol: 3), ("infinite", lambda mol: np.inf)]
    monkeypatch.setattr(Descriptors, "_descList", functions)
    np.testing.assert_array_equal(molecules.descriptors(parse("C")), [np.nan, 3, np.inf])


def test_morgan_counts():
    counts = molecules.morgan_counts(parse("CCCCCC"), radius=0, size=512)
    assert counts.shape == (512,)
    assert counts.dtype == np.float32
    assert sorted(counts[counts > 0]) == [2, 4]  # end and middle carbons
    default = molecules.morgan_counts(parse("CCCCCC"))
    assert default.shape == (2048,)
    assert default.sum() > 6


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("CCO", ""),
        ("[Na+]", ""),
        ("CC(=O)Oc1ccccc1C(=O)O", "c1ccccc1"),
        ("CCc1ccc(C[C@H](C)C2CC2)cc1", "c1ccc(CCC2CC2)cc1"),
        ("C[C@H]1C[C@@]12CCO2", "C1CC12CCO2"),
    ],
)
def test_scaffold(smiles, expected):
    assert molecules.scaffold(parse(smiles)) == Chem.CanonSmiles(expected)


def test_a_molecule_without_a_scaffold_stands_alone(monkeypatch):
    def fails(**_):
        raise ValueError("no scaffold")

    monkeypatch.setattr(MurckoScaffold, "MurckoScaffoldSmiles", fails)
    assert molecules.scaffold(parse("OCC")) == "CCO" == molecules.canonical_smiles(parse("OCC"))


# Files


@pytest.mark.parametrize("ending", [".sdf", ".sdf.gz"])
def test_sd_files_keep_every_record(tmp_path, ending):
    bad = Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)
    good = Chem.MolFromSmiles("C/C=C/C[C@H](F)Cl")
    good.SetProp("_Name", "second")
    AllChem.Compute2DCoords(good)
    blocks = [
        Chem.MolToMolBlock(bad, kekulize=False) + "> <pIC50>\n5.5\n\n$$$$\n",
        Chem.MolToMolBlock(good) + "> <pIC50>\n6.5\n\n> <Größe>\nü\n\n$$$$\n",
        "no\nmol\nblock\nat all\n> <pIC50>\n7.5\n\n$$$$\n",
        Chem.MolToV3KMolBlock(good) + "> <pIC50>\n8.5\n\n",
    ]
    path = tmp_path / f"molecules{ending}"
    write = gzip.open if ending.endswith(".gz") else open
    with write(path, "wt", encoding="utf-8") as file:
        file.write("".join(blocks))
    smiles, title = "C/C=C/C[C@H](F)Cl", {"_Name": "second"}
    first, second, third, fourth = molecules.read_sdf(path)
    assert first.smiles is None
    assert "Explicit valence" in first.reason
    assert first.properties == {"pIC50": "5.5"}
    assert second == (smiles, None, {"pIC50": "6.5", "Größe": "ü"} | title)
    assert third == (None, "not a valid mol block", {})
    assert fourth == (smiles, None, {"pIC50": "8.5"} | title)


def test_the_bundled_files_are_there():
    smi, activity = molecules.bundled_files()
    names = [line.split()[1] for line in smi.read_text().splitlines()]
    rows = list(csv.DictReader(activity.read_text().splitlines()))
    assert {row["Name"] for row in rows} == set(names)
    assert all(4 < float(row["Act"]) < 12 for row in rows)


def test_a_missing_bundled_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(RDConfig, "RDContribDir", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"CHEMBL2321810\.smi: install RDKit"):
        molecules.bundled_files()


def test_refusals_keep_no_molecule_alive():
    parsed = molecules.parse_many(["CCO", "xyz", "CC"])
    (error,) = parsed.errors
    assert (error.__traceback__, error.__context__) == (None, None)
    holders = [holder for holder in gc.get_referrers(*parsed.mols) if isinstance(holder, list)]
    assert holders == [parsed.mols]
