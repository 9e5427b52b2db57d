"""What docs/studies/charges.py counts."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
from rdkit import Chem

from molsam import datasets

SCRIPT = Path(__file__).parents[1] / "docs/studies/charges.py"
SPEC = importlib.util.spec_from_file_location("charges", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
charges = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(charges)


@pytest.mark.parametrize(
    ("smiles", "charged"),
    [
        ("CC(=O)[O-]", True),
        ("C[NH3+]", True),
        ("[Na+].[O-]C(=O)C", True),
        ("[NH3+]CC(=O)[O-]", True),  # a zwitterion: its charges are far apart
        ("C[N+](=O)[O-]", False),
        ("C[n+]1ccccc1", True),
        ("[O-][n+]1ccccc1", False),
        ("CCO", False),
    ],
)
def test_a_charge_counts_where_no_neighbour_has_one(smiles, charged):
    assert charges.is_charged(Chem.MolFromSmiles(smiles)) is charged


def test_molecules_are_counted_by_target_and_label():
    smiles = ["C[NH3+]", "CC", "not a molecule", "CCC[O-]", "CCO"]
    frame = pd.DataFrame({"smiles": smiles, "a": [1, 1, 1, 0, 0], "b": [0, None, 0, 0, 1]})
    table = datasets.table_from_frame(frame, smiles="smiles", targets=["a", "b"], kind="binary")
    counted = charges.measure(table, "mine").to_dict("records")
    assert [tuple(row.values()) for row in counted] == [
        ("mine", "a", 0, 2, 1),
        ("mine", "a", 1, 2, 1),
        ("mine", "b", 0, 2, 2),
        ("mine", "b", 1, 1, 0),
    ]
