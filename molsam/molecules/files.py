"""Files that only RDKit reads: SD files, and the set of molecules that RDKit itself carries."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from rdkit import Chem, RDConfig
from rdkit.rdBase import BlockLogs

from molsam.molecules.parsing import sanitization_problem


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
    at all has none. Hydrogens are made implicit, stereochemistry is kept.
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
    lines: list[str] = []
    for line in file:
        lines.append(line)
        if line.startswith("$$$$"):
            yield "".join(lines)
            lines.clear()
    if "".join(lines).strip():
        yield "".join(lines)


def _record(text: str) -> SDRecord:
    with BlockLogs():
        raw = _read(text, sanitize=False)
        if raw is None:
            return SDRecord(None, "not a valid mol block", {})
        properties = {name: raw.GetProp(name) for name in raw.GetPropNames()}
        if raw.HasProp("_Name") and raw.GetProp("_Name"):
            properties["_Name"] = raw.GetProp("_Name")
        mol = _read(text, sanitize=True)
        if mol is None:
            return SDRecord(None, sanitization_problem(raw), properties)
        return SDRecord(Chem.MolToSmiles(mol), None, properties)


def _read(text: str, sanitize: bool) -> Chem.Mol | None:
    supplier = Chem.SDMolSupplier()
    supplier.SetData(text, sanitize=sanitize)
    return next(iter(supplier), None)
