"""What is fatal to RDKit costs its own row; the process and the other rows go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import combinations
from pathlib import Path
from textwrap import dedent

import joblib
import pytest
from fatal_work import work
from odd_molecules import smiles_of
from odd_rings import BROKEN, C60, ENDLESS, LARGEST, complete, v3000
from test_reading import assert_same_reading

from molsam import molecules, reading, survival
from molsam.molecules import InvalidMolecule, is_demanding, parse, parse_many, read_sdf
from molsam.reading import read
from molsam.survival import WorkerError, alone, together

HERE = Path(__file__).resolve().parent


def refused(reason: str) -> list[str]:
    return [reason]


@pytest.fixture
def fatal(monkeypatch):
    monkeypatch.setattr(survival, "SECONDS", 2)
    monkeypatch.setattr(survival, "BYTES", 1 << 30)
    return partial(work, own=os.getpid())


def test_a_chunk_that_is_fatal_costs_one_item(fatal):
    chunks = [["a", "b"], ["c", "SIGSEGV", "d"], ["e"], ["huge", "f"]]
    found = [item for made in together(fatal, chunks, 2, refused) for item in made]
    needs = "RDKit needs more than 1 GiB of memory for it"
    assert found == ["a", "b", "c", "it ends RDKit's process", "d", "e", needs, "f"]


def test_a_worker_may_end_while_others_are_still_given_work(fatal, monkeypatch):
    delayed = joblib.delayed

    def slowly(function):
        def later(*given):
            time.sleep(0.5)
            return delayed(function)(*given)

        return later

    monkeypatch.setattr(joblib, "delayed", slowly)
    chunks = [["SIGSEGV"], ["a"], ["b"], ["SIGSEGV", "c"], ["d"], ["e"]]
    found = [item for made in together(fatal, chunks, 2, refused) for item in made]
    ends = "it ends RDKit's process"
    assert found == [ends, "a", "b", ends, "c", "d", "e"]


def test_what_has_no_end_is_ended(fatal):
    assert alone(fatal, "endless", refused) == ["RDKit does not finish it in 2 s"]
    assert alone(fatal, "a", refused) == ["a"]


def test_a_process_killed_from_outside_says_nothing_of_the_molecule(fatal):
    with pytest.raises(WorkerError, match=r"was killed.*fewer processes"):
        alone(fatal, "SIGKILL", refused)


def test_limits_end_with_the_work(fatal):
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with survival._limits(1000, 1 << 40):
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 1 << 40
        assert signal.getitimer(signal.ITIMER_PROF)[0] > 0
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)


# Molecules


def test_a_molecule_that_rdkit_never_finishes_costs_its_row(monkeypatch):
    monkeypatch.setattr(survival, "SECONDS", 8)
    asked = {"descriptors": True, "fingerprints": True, "scaffolds": True, "processes": 1}
    found = read(["CCO", C60, ENDLESS, "xyz"], "compt", **asked)
    reasons = {error.row: error.reason for error in found.errors}
    assert reasons == {3: "RDKit does not finish it in 8 s", 4: "not valid SMILES"}
    monkeypatch.setattr(reading, "is_demanding", lambda _: False)
    monkeypatch.setattr(reading, "alone", lambda *_: pytest.fail("no process was asked for"))
    ordinary = read(["CCO", C60, "xyz"], "compt", **asked)
    del found.errors[0]
    found.errors[0].row = 3
    assert_same_reading(found, ordinary)


@pytest.mark.parametrize(
    ("smiles", "demanding"),
    [
        ("CCO", False),
        (None, False),
        ("C" * 300, False),
        ("C" * 301, True),
        ("C" * 5001, False),
        (C60, True),
        (ENDLESS, True),
        ("[13CH3][C:12345](C)[C+12]" * 12, False),
        ("C1CC1" * 20, False),
        ("C1CC1" * 21, True),
        ("C%10CC%(11)%10C%(11)" * 11, True),
    ],
)
def test_what_is_demanding_is_seen_in_the_text(smiles, demanding):
    assert is_demanding(smiles) is demanding


def test_no_molecule_of_moleculenet_is_too_large(moleculenet):
    longest = sorted(smiles_of(moleculenet / "sider.csv"), key=len)[-20:]
    assert len(longest[-1]) == 1340
    assert max(mol.GetNumAtoms() for mol in parse_many(longest).mols) == 492


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("C" * 1001, "1,001 atoms, more than 1,000"),
        ("C" * 5001, "5,001 characters, more than 5,000"),
        ("(" * 1_000_000, "1,000,000 characters, more than 5,000"),
        (complete(60), r"\d\d,\d{3} characters, more than 5,000"),
    ],
)
def test_what_is_too_large_is_refused_at_once(smiles, reason):
    with pytest.raises(InvalidMolecule, match=reason):
        parse(smiles)


def test_the_largest_and_the_deepest_leave_a_small_stack_whole():
    """Threads of macOS have half a megabyte, of Linux 16 times as much."""
    script = """
        import threading
        from odd_rings import BROKEN, LARGEST
        from molsam import molecules

        def read():
            for text in (*LARGEST, *BROKEN):
                for mol in molecules.parse_many([text]).mols:
                    print(molecules.morgan_counts(mol).sum() > 0)

        threading.stack_size(512 << 10)
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    """
    command = [sys.executable, "-c", dedent(script)]
    where = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    done = subprocess.run(command, env=where, capture_output=True, text=True, check=True)
    assert done.stdout.count("True") == len(LARGEST)


def test_no_text_is_too_deep_for_the_parser():
    reasons = [error.reason for error in parse_many(BROKEN).errors]
    assert reasons == ["not valid SMILES"] * 5 + [r"not valid SMILES: it holds '\x00'"]


# SD files


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (v3000(5000, []), "5,000 atoms, more than 4,000 with hydrogens"),
        (v3000(100, list(combinations(range(100), 2)), "U"), "4,950 bonds between 100 atoms"),
        (
            v3000(100, list(combinations(range(100), 2)), "U").replace(
                "COUNTS", "COU-\nM  V30 NTS"
            ),
            "4,950 bonds between 100 atoms",
        ),
        (v3000(200, [(0, i) for i in range(1, 200)], "U"), "RDKit fails on it: Pre-condition"),
        ("no end\n" * 200_000, "more than 1,000,000 characters"),
        ("x" * 3_000_000, "more than 1,000,000 characters"),
    ],
)
def test_records_that_rdkit_would_not_survive_are_refused(tmp_path, record, reason):
    path = tmp_path / "odd.sdf"
    path.write_text(record.rstrip("$\n") + "\n$$$$\n" + v3000(2, [(0, 1)]))
    odd, good = read_sdf(path)
    assert odd.smiles is None
    assert str(odd.reason).startswith(reason)
    assert (good.smiles, good.properties) == ("CC", {"_Name": "odd"})


def test_a_large_record_is_read(tmp_path):
    path = tmp_path / "large.sdf"
    path.write_text(v3000(1500, [(i, i + 1) for i in range(1499)]))
    (record,) = read_sdf(path)
    assert record.smiles == "C" * 1500
    assert molecules.parse_many([record.smiles]).errors[0].reason == "1,500 atoms, more than 1,000"
