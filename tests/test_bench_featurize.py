"""molsam bench featurize: the same features, one thread, and what is said."""

from __future__ import annotations

import json
import subprocess
import sys
from textwrap import dedent

import numpy as np
import pytest
import torch
from shell import molsam

from molsam import molecules
from molsam.bench import featurizing

TINY = ("--rounds", 1, "--count", 4)


def test_importing_dgllife_leaves_the_log_of_rdkit_as_it_was():
    code = """
        from rdkit.rdBase import LogStatus
        from molsam import molecules
        before = LogStatus()
        assert molecules.dgllife("utils").mol_to_bigraph
        assert LogStatus() == before, LogStatus()
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_report():
    threads = torch.get_num_threads()
    result = molsam("bench", "featurize", *TINY, "--json")
    assert result.code == 0, result.err
    assert torch.get_num_threads() == threads
    report = json.loads(result.out)
    assert report["threads"] == 1
    assert (report["settings"]["count"], report["settings"]["rounds"]) == (4, 1)
    names = [(row["featurizer"], row["form"]) for row in report["rows"]]
    assert names == [(n, f) for n in featurizing.FEATURIZERS for f in ("featurize", "pack")]
    for row in report["rows"]:
        ratio = row["molecules_per_second"] / row["dgllife_molecules_per_second"]
        assert row["ratio_low"] == row["ratio"] == row["ratio_high"] == pytest.approx(ratio)

    assert [row["descriptors"] for row in report["reading"]] == [False, True]
    for row in report["reading"]:
        ratio = row["molecules_per_second"] / row["one_process_molecules_per_second"]
        assert row["ratio"] == pytest.approx(ratio)
    assert "WARNING" not in result.err


def test_molecules_of_a_file(tmp_path):
    table = tmp_path / "some.csv"
    table.write_text("name,smiles\n" + "".join(f"{n},{'C' * n}\n" for n in range(1, 7)) + "x,xyz\n")
    report = json.loads(molsam("bench", "featurize", table, *TINY, "--json").out)
    assert (report["settings"]["table"], report["settings"]["count"]) == ("some.csv", 4)
    drawn = featurizing.draw(table, 7, np.random.default_rng(0))
    assert sorted(drawn) == ["C" * n for n in range(1, 7)]
    result = molsam("bench", "featurize", tmp_path / "none.csv")
    assert result.code == 2
    assert "none.csv" in result.err


@pytest.mark.parametrize("name", featurizing.FEATURIZERS)
def test_an_atom_alone_can_be_compared(name):
    featurizing.check(name, [molecules.parse("[Na+]"), molecules.parse("CC")])


def test_processes_are_worth_the_molecules_that_save_their_start(monkeypatch):
    starts, rates = iter([3.5, 1.5]), {1: 100.0, 4: 200.0}
    monkeypatch.setattr(featurizing.joblib, "cpu_count", lambda: 4)
    monkeypatch.setattr(featurizing, "_seconds", lambda *_: next(starts))
    monkeypatch.setattr(featurizing.Team, "step", lambda *_: None)
    monkeypatch.setattr(featurizing, "rate", lambda _, team: rates[team.settings["processes"]])
    for row in featurizing.compare_processes(["C"], 1, np.random.default_rng(0)):
        assert (row["start_seconds"], row["worth"]) == (2.0, pytest.approx(400))


def test_a_table_of_eighty_columns():
    result = molsam("bench", "featurize", *TINY)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert max(map(len, lines)) <= 80
    for name in featurizing.FEATURIZERS:
        assert sum(line.startswith(f" {name} ") for line in lines) == 2


def test_other_features_are_refused(monkeypatch):
    mols = molecules.parse_many(["CCO", "c1ccccc1"]).mols
    featurizing.check("canonical", mols)
    true = molecules.featurize

    def other(mol, name):
        features = true(mol, name)
        return features._replace(bonds=np.roll(features.bonds, 1, axis=1))

    monkeypatch.setattr(molecules, "featurize", other)
    with pytest.raises(ArithmeticError, match="the features of canonical are not those of dgllife"):
        featurizing.check("canonical", mols)


def test_every_molecule_is_read_by_every_entrant():
    mols = molecules.parse_many(["CCO", "CCN", "C"]).mols
    for name in featurizing.FEATURIZERS:
        graphs, features, packed = (entrant.read(mols) for entrant in featurizing.line_up(name))
        assert [graph.num_nodes() for graph in graphs] == [3, 3, 1]
        assert [len(each.atoms) for each in features] == packed.sizes.tolist() == [3, 3, 1]
