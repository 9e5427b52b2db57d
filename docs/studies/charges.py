"""How many molecules of each label are written with a charge.

`python docs/studies/charges.py clintox` adds a row to `charges.csv` for each target and label of
ClinTox. A charge counts where no neighbour has one too, as in a nitro group: that of a
carboxylate, a protonated amine, a counter-ion.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from rdkit import Chem

from molsam import datasets
from molsam.molecules import parse_many

ROWS = Path(__file__).with_suffix(".csv")


def measure(table: datasets.MoleculeTable, task: str) -> pd.DataFrame:
    """A row for each target and label, of the molecules that can be read."""
    read = parse_many(table.smiles)
    written = np.array([is_charged(mol) for mol in read.mols])
    rows = []
    for target, labels in zip(table.tasks, np.asarray(table.y)[read.index].T, strict=True):
        for label in (0, 1):
            chosen = written[labels == label]
            counts = {"molecules": len(chosen), "charged": int(chosen.sum())}
            rows.append({"task": task, "target": target, "label": label, **counts})
    return pd.DataFrame(rows)


def is_charged(mol: Chem.Mol) -> bool:
    """Whether an atom has a charge and none of its neighbours."""
    atoms = [atom for atom in mol.GetAtoms() if atom.GetFormalCharge()]
    return any(not any(n.GetFormalCharge() for n in atom.GetNeighbors()) for atom in atoms)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        found = measure(datasets.load(name), name)
        found.to_csv(ROWS, mode="a", header=not ROWS.is_file(), index=False)
