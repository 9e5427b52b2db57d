"""SMILES to RDKit molecules to dgllife features: the one door to rdkit, dgllife and dgl.

`parse` makes a molecule of a SMILES, the same for every spelling, or says why it cannot;
`featurize` makes arrays of a molecule, `to_dgl` a DGLGraph; `descriptors`, `morgan_counts` and
`scaffold` describe it as a whole; `draw` and `draw_weights` draw it.
"""

from molsam.molecules.featurizers import (
    FEATURIZERS,
    Encoded,
    Features,
    Featurizer,
    encode,
    featurize,
    featurizer,
    to_dgl,
)
from molsam.molecules.files import SDRecord, bundled_files, read_sdf
from molsam.molecules.libraries import BlockLogs, dgl, dgllife
from molsam.molecules.parsing import (
    LONGEST,
    MOST_ATOMS,
    Charges,
    InvalidMolecule,
    Parsed,
    Salts,
    canonical_smiles,
    is_demanding,
    parse,
    parse_many,
    random_spellings,
    written_order,
)
from molsam.molecules.paths import bond_ends, distances, shortest_paths
from molsam.molecules.pictures import draw, draw_weights
from molsam.molecules.properties import (
    DESCRIPTORS,
    MORGAN_SIZE,
    descriptors,
    morgan_counts,
    morgan_environments,
    scaffold,
)
from molsam.molecules.rows import Table

__all__ = [
    "DESCRIPTORS",
    "FEATURIZERS",
    "LONGEST",
    "MORGAN_SIZE",
    "MOST_ATOMS",
    "BlockLogs",
    "Charges",
    "Encoded",
    "Features",
    "Featurizer",
    "InvalidMolecule",
    "Parsed",
    "SDRecord",
    "Salts",
    "Table",
    "bond_ends",
    "bundled_files",
    "canonical_smiles",
    "descriptors",
    "dgl",
    "dgllife",
    "distances",
    "draw",
    "draw_weights",
    "encode",
    "featurize",
    "featurizer",
    "is_demanding",
    "morgan_counts",
    "morgan_environments",
    "parse",
    "parse_many",
    "random_spellings",
    "read_sdf",
    "scaffold",
    "shortest_paths",
    "to_dgl",
    "written_order",
]
