"""SMILES to molecules and what is worked out of whole ones; spelling must not matter."""

from __future__ import annotations

import csv
import gc
import gzip
import os
import pickle
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_molecules import ODD, TABLES, assert_same, sample, smiles_of
from rdkit import Chem, RDConfig
from rdkit.Chem import AllChem, Descriptors
from rdkit.Chem.Scaffolds import MurckoScaffold
from rdkit.rdBase import LogStatus

from molsam import molecules
from molsam.molecules import FEATURIZERS, InvalidMolecule, featurize, parse, parse_many

ROOT = Path(__file__).resolve().parents[1]


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
        parse("C" * 4000 + "(")
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


def test_a_script_called_dgl_is_said_to_be_in_the_way(tmp_path):
    (tmp_path / "dgl.py").write_text("")
    done = run("from molsam import molecules; molecules.dgl()", tmp_path, tmp_path)
    assert done.stderr.endswith(
        f"ImportError: {tmp_path / 'dgl.py'} hides the package dgl; give that file another name\n"
    )


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
