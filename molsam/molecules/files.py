"""Files that only RDKit reads: SD files, and the set of molecules that RDKit itself carries."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from rdkit import Chem, RDConfig
from rdkit.rdBase import BlockLogs

from molsam.molecules.parsing import MOST_ATOMS, failure, sanitization_problem

LONGEST_RECORD = 1_000_000  # characters: ten times those of 999 atoms
WITH_HYDROGENS = 4 * MOST_ATOMS
MORE_BONDS = MOST_ATOMS // 2  # than atoms
# V2000 has room for 999 bonds.
COUNTS = re.compile(r"M  V30 COUNTS\s+(\d{1,9})\s+(\d{1,9})")
CONTINUED = re.compile(r"-\r?\nM  V30 ")


class SDRecord(NamedTuple):
    """One record of an SD file: `smiles`, or the `reason` there is none; its data fields as text.

    The title line, where there is one, is the field `_Name`, as in RDKit.
    """

    smiles: str | None
    reason: str | None
    properties: dict[str, str]


def read_sdf(path: str | Path) -> Iterator[SDRecord]:
    """Records of an SD file (V2000 or V3000, `.gz` too) in order, one at a time, the bad ones too.

    A record that RDKit reads but cannot sanitize keeps its data fields; one that it cannot read
    at all has none, nor one that is too large to be tried: beyond `LONGEST_RECORD`, or 4,000 atoms
    with hydrogens, or 500 more bonds than atoms. Hydrogens are made implicit, stereochemistry is
    kept.
    """
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", errors="replace") as file:
        for text in _records(file):
            yield _record(text)


def bundled_files() -> tuple[Path, Path]:
    """The activity series CHEMBL2321810 in RDKit's Contrib folder: (.smi path, activity .csv path).

    The .smi file holds `SMILES name` a line; the .csv has the columns `Name` and `Act` (pIC50).
    Raises `FileNotFoundError` where this build of RDKit was packed without it.
    """
    folder = Path(RDConfig.RDContribDir) / "FreeWilson" / "data"
    paths = folder / "CHEMBL2321810.smi", folder / "CHEMBL2321810_act.csv"
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"this build of RDKit lacks {path}: install RDKit from PyPI "
                "(pip install rdkit), which carries its Contrib folder"
            )
    return paths


def _records(file: IO[str]) -> Iterator[str]:
    """The texts of the records, cut short where they are too long."""
    kept = io.StringIO()
    for line in iter(partial(file.readline, LONGEST_RECORD), ""):
        if kept.tell() <= LONGEST_RECORD:
            kept.write(line)
        if line.startswith("$$$$"):
            yield kept.getvalue()
            kept = io.StringIO()
    if kept.getvalue().strip():
        yield kept.getvalue()


def _record(text: str) -> SDRecord:
    if reason := _too_large(text):
        return SDRecord(None, reason, {})
    properties: dict[str, str] = {}
    with BlockLogs():
        try:
            return _sanitized(text, properties)
        except (RuntimeError, ValueError) as error:
            return SDRecord(None, failure(error), properties)


def _sanitized(text: str, properties: dict[str, str]) -> SDRecord:
    """The record, its data fields in `properties`."""
    raw = _read(text, sanitize=False)
    if raw is None:
        return SDRecord(None, "not a valid mol block", {})
    properties |= {name: raw.GetProp(name) for name in raw.GetPropNames()}
    if raw.HasProp("_Name") and raw.GetProp("_Name"):
        properties["_Name"] = raw.GetProp("_Name")
    mol = _read(text, sanitize=True)
    if mol is None:
        return SDRecord(None, sanitization_problem(raw), properties)
    return SDRecord(Chem.MolToSmiles(mol), None, properties)


def _too_large(text: str) -> str | None:
    """Why RDKit may not live through reading the record; what is left it reads in seconds."""
    if len(text) > LONGEST_RECORD:
        return f"more than {LONGEST_RECORD:,} characters"
    for count in COUNTS.finditer(CONTINUED.sub("", text)):
        atoms, bonds = map(int, count.groups())
        if atoms > WITH_HYDROGENS:
            return f"{atoms:,} atoms, more than {WITH_HYDROGENS:,} with hydrogens"
        if bonds - atoms > MORE_BONDS:
            return f"{bonds:,} bonds between {atoms:,} atoms"
    return None


def _read(text: str, sanitize: bool) -> Chem.Mol | None:
    supplier = Chem.SDMolSupplier()
    supplier.SetData(text, sanitize=sanitize)
    return next(iter(supplier), None)
