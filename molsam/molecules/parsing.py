"""SMILES to molecules: any spelling of a molecule gives the same atoms and bonds in one order."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import numpy as np
from rdkit import Chem
from rdkit.rdBase import BlockLogs

Salts = Literal["keep", "largest", "refuse"]
Charges = Literal["keep", "neutralize"]

LONGEST = 5000
"""Characters of a SMILES, beyond which RDKit may take any time or memory, or crash."""

MOST_ATOMS = 1000
"""Atoms of a molecule, hydrogens that are not written aside; MoleculeNet's largest has 492."""

_ORDINARY = {"characters": 300, "ring marks": 40}
_BRACKETS = re.compile(r"\[[^\]]*\]")
_RING_MARK = re.compile(r"%\(\d+\)|%\d\d|\d")

_shortened = reprlib.Repr()
_shortened.maxstring = 100


class InvalidMolecule(ValueError):
    """A SMILES that is no usable molecule: `smiles`, its data `row` (from 1) if known, `reason`."""

    def __init__(self, smiles: object, row: int | None, reason: str) -> None:
        super().__init__(smiles, row, reason)
        self.smiles = smiles
        self.row = row
        self.reason = reason

    def __str__(self) -> str:
        where = "" if self.row is None else f"row {self.row}: "
        return (
            f"{where}cannot use {_shortened.repr(self.smiles)} as a molecule ({self.reason}): "
            "correct it or leave it out"
        )


class Parsed(NamedTuple):
    """What `parse_many` read: the molecules, the positions they came from, and the refusals."""

    mols: list[Chem.Mol]
    index: np.ndarray
    errors: list[InvalidMolecule]


def parse(
    smiles: object, *, row: int | None = None, salts: Salts = "keep", charges: Charges = "keep"
) -> Chem.Mol:
    """The molecule that `smiles` spells, with atoms and bonds in the order of its canonical SMILES.

    The text is read, cleaned as `salts` and `charges` say, written as RDKit's canonical SMILES and
    read again, so that the result depends on the molecule and not on its spelling: order, chiral
    tags, and which hydrogens are explicit (`[CH3][CH3]` against `CC`). Atom map numbers are
    dropped; isotopes, stereochemistry, dative bonds and all fragments stay. Of the 155,000
    molecules of MoleculeNet one, a hexachlorocyclohexane, has two canonical SMILES in RDKit.
    Texts beyond `LONGEST` and molecules beyond `MOST_ATOMS` are refused: what is left RDKit reads
    in seconds, whatever it spells.

    Parameters
    ----------
    smiles
        Text; what follows a first blank is a name or CXSMILES extension, as in RDKit.
    row
        Data row (from 1) to name in the error.
    salts
        Of several fragments `"keep"` all, keep the `"largest"`, or `"refuse"` the molecule.
    charges
        `"keep"` them, or `"neutralize"` what gaining or losing protons can.

    Raises
    ------
    InvalidMolecule
        With RDKit's reason where it has one. Nothing is written to stderr.
    """
    _check_policies(salts, charges)
    found = _attempt(smiles, row, salts, charges)
    if isinstance(found, InvalidMolecule):
        raise found
    return found


def parse_many(
    smiles: Iterable[object], *, salts: Salts = "keep", charges: Charges = "keep"
) -> Parsed:
    """Parse every text, the good and the bad kept apart; an error's `row` is its place from 1."""
    _check_policies(salts, charges)
    results = [_attempt(text, row, salts, charges) for row, text in enumerate(smiles, start=1)]
    good = [i for i, result in enumerate(results) if isinstance(result, Chem.Mol)]
    return Parsed(
        mols=[result for result in results if isinstance(result, Chem.Mol)],
        index=np.array(good, dtype=np.int64),
        errors=[result for result in results if isinstance(result, InvalidMolecule)],
    )


def is_demanding(smiles: object) -> bool:
    """Whether RDKit may take minutes to describe what this text spells: it is long, or all rings.

    The number of paths, which descriptors count, doubles with a ring at worst.
    """
    if not isinstance(smiles, str) or len(smiles) > LONGEST:
        return False
    rings = _RING_MARK.findall(_BRACKETS.sub("", smiles))
    return len(smiles) > _ORDINARY["characters"] or len(rings) > _ORDINARY["ring marks"]


def canonical_smiles(mol: Chem.Mol) -> str:
    """RDKit's canonical SMILES, one for all spellings of a molecule."""
    return Chem.MolToSmiles(mol)


def written_order(mol: Chem.Mol) -> list[int]:
    """The atoms of `mol` in the order in which `canonical_smiles` writes them."""
    mol = Chem.Mol(mol)
    Chem.MolToSmiles(mol)
    return list(mol.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"])


def random_spellings(smiles: str, count: int, seed: int = 0) -> list[str]:
    """`count` SMILES of the molecule that start at random atoms and branch at random."""
    return list(Chem.MolToRandomSmilesVect(parse(smiles), count, seed))


def sanitization_problem(mol: Chem.Mol) -> str:
    """Why RDKit refuses the unsanitized `mol`, in RDKit's words."""
    problems = Chem.DetectChemistryProblems(mol)
    return problems[0].Message() if problems else "RDKit cannot sanitize it"


def failure(error: Exception) -> str:
    """The reason that an exception of RDKit's gives, its report of source lines aside."""
    return f"RDKit fails on it: {str(error).strip().partition(chr(10))[0]}"


class _Refused(Exception):
    """The reason alone; `parse` adds the text and the row."""


def _attempt(
    smiles: object, row: int | None, salts: Salts, charges: Charges
) -> Chem.Mol | InvalidMolecule:
    """The molecule, or an error that was never raised: a traceback would keep its caller alive."""
    with BlockLogs():
        try:
            return _parse(smiles, salts, charges)
        except _Refused as refused:
            reason = str(refused)
        except (RuntimeError, ValueError) as error:
            reason = failure(error)
    return InvalidMolecule(smiles, row, reason)


def _check_policies(salts: str, charges: str) -> None:
    choices = {"salts": (salts, get_args(Salts)), "charges": (charges, get_args(Charges))}
    for argument, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"{argument} must be one of {', '.join(allowed)}, not {value!r}")


def _parse(smiles: object, salts: Salts, charges: Charges) -> Chem.Mol:
    text = _text(smiles)
    mol = _read(text)
    if ":" in text:
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
    mol = _clean(mol, salts, charges)
    return _read(Chem.MolToSmiles(mol))


def _text(smiles: object) -> str:
    if not isinstance(smiles, str):
        missing = smiles is None or str(smiles) in ("nan", "<NA>")
        raise _Refused("missing" if missing else f"{type(smiles).__name__}, not text")
    if len(smiles) > LONGEST:
        raise _Refused(f"{len(smiles):,} characters, more than {LONGEST:,}")
    words = smiles.split(maxsplit=1)
    if not words:
        raise _Refused("empty")
    # RDKit stops reading at such a character, and would take what came before for the molecule.
    if strange := next((c for c in words[0] if not (c.isascii() and c.isprintable())), None):
        raise _Refused(f"not valid SMILES: it holds {strange!a}")
    return smiles


def _read(text: str) -> Chem.Mol:
    mol = Chem.MolFromSmiles(text)
    if mol is None:
        raw = Chem.MolFromSmiles(text, sanitize=False)
        raise _Refused("not valid SMILES" if raw is None else sanitization_problem(raw))
    if mol.GetNumAtoms() == 0:
        raise _Refused("no atoms")
    if (atoms := mol.GetNumAtoms()) > MOST_ATOMS:
        raise _Refused(f"{atoms:,} atoms, more than {MOST_ATOMS:,}")
    return mol


def _clean(mol: Chem.Mol, salts: Salts, charges: Charges) -> Chem.Mol:
    if salts == charges == "keep":
        return mol
    from rdkit.Chem.MolStandardize import rdMolStandardize

    fragments = len(Chem.GetMolFrags(mol))
    if salts == "refuse" and fragments > 1:
        raise _Refused(f"{fragments} fragments, where one molecule is asked for")
    if salts == "largest":
        mol = rdMolStandardize.LargestFragmentChooser().choose(mol)
    if charges == "neutralize":
        mol = rdMolStandardize.Uncharger().uncharge(mol)
    return mol
