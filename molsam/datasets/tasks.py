"""The MoleculeNet tasks and the set that RDKit carries: what each is and how it is judged.

The published files lie in DeepChem's public bucket. A file is taken for a task only if it holds
what was published: by the digest of its molecules and labels for editions of which a copy was at
hand, else by its columns and its number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from molsam.datasets.files import DataError, read_frame
from molsam.datasets.tables import MoleculeTable, table_from_frame
from molsam.metrics import Kind

BUCKET = "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/"
MOLECULENET = "Wu et al., Chem. Sci. 2018, 9, 513, doi:10.1039/C7SC02664A"
"""Where the tasks come from."""


@dataclass(frozen=True)
class Task:
    """A published data set with its usual protocol.

    Attributes
    ----------
    name, title : what it is called here, and what is predicted.
    file : name of the published file.
    smiles : column of SMILES.
    targets : columns of labels; () takes every column of numbers but ids (see `guess_columns`).
    columns : number of targets.
    kind, metric : kind of the labels, and the metric that judges them.
    split : the split that MoleculeNet recommends.
    editions : rows -> digest of the molecules and labels, the edition at `url` first. None where
        no copy was at hand: then the rows, within 1 %, and the columns are checked instead.
    units : unit of each target; () where they have none.
    citation, licence : of the data; cite MoleculeNet (`MOLECULENET`) too.
    bucket : where the file lies; None for the set that RDKit carries.
    """

    name: str
    title: str
    file: str
    targets: tuple[str, ...]
    kind: Kind
    metric: Literal["rmse", "mae", "roc_auc", "prc_auc"]
    split: Literal["random", "scaffold", "stratified"]
    columns: int
    editions: Mapping[int, str | None]
    citation: str
    smiles: str = "smiles"
    units: tuple[str, ...] = ()
    licence: str = "see the source"
    bucket: str | None = BUCKET

    @property
    def url(self) -> str | None:
        """Address of the published file."""
        return self.bucket and self.bucket + self.file

    @property
    def size(self) -> int:
        """Rows of the published file."""
        return next(iter(self.editions))

    @property
    def digest(self) -> str | None:
        """Digest of the published file's molecules and labels, if known."""
        return self.editions[self.size]

    def read(self, path: str | Path) -> MoleculeTable:
        """The task from a file; `DataError` if the file does not hold what was published."""
        return self.table(read_frame(path, smiles=self.smiles).frame, str(path))

    def table(self, frame: pd.DataFrame, source: str) -> MoleculeTable:
        """The task from the frame of a file; `DataError` if this is not what was published."""
        table = table_from_frame(
            frame,
            source=source,
            smiles=self.smiles,
            targets=self.targets or None,
            kind=self.kind,
        )
        difference = self._difference(table)
        if difference:
            raise DataError(
                f"{source} is not the data set {self.name}: {difference}; put the published file "
                f"({self.url}) in its place, or name the file itself if it is data of your own"
            )
        return replace(table, source=self.name, units=self.units or table.units)

    def _difference(self, table: MoleculeTable) -> str:
        rows, columns = len(table), len(table.tasks)
        digest = self.editions.get(rows)
        if digest is not None:
            same = digest == table.digest()
            return "" if same else "its molecules or labels differ from those published"
        unseen = (size for size, digest in self.editions.items() if digest is None)
        if columns == self.columns and any(abs(rows - size) <= size / 100 for size in unseen):
            return ""
        sizes = " or ".join(f"{size:,}" for size in self.editions)
        return f"{rows:,} rows and {columns:,} targets, not {sizes} and {self.columns:,}"


SIDER_TARGETS = (
    "Hepatobiliary disorders",
    "Metabolism and nutrition disorders",
    "Product issues",
    "Eye disorders",
    "Investigations",
    "Musculoskeletal and connective tissue disorders",
    "Gastrointestinal disorders",
    "Social circumstances",
    "Immune system disorders",
    "Reproductive system and breast disorders",
    "Neoplasms benign, malignant and unspecified (incl cysts and polyps)",
    "General disorders and administration site conditions",
    "Endocrine disorders",
    "Surgical and medical procedures",
    "Vascular disorders",
    "Blood and lymphatic system disorders",
    "Skin and subcutaneous tissue disorders",
    "Congenital, familial and genetic disorders",
    "Infections and infestations",
    "Respiratory, thoracic and mediastinal disorders",
    "Psychiatric disorders",
    "Renal and urinary disorders",
    "Pregnancy, puerperium and perinatal conditions",
    "Ear and labyrinth disorders",
    "Cardiac disorders",
    "Nervous system disorders",
    "Injury, poisoning and procedural complications",
)
TOX21_NUCLEAR = ("AR", "AR-LBD", "AhR", "Aromatase", "ER", "ER-LBD", "PPAR-gamma")
TOX21_STRESS = ("ARE", "ATAD5", "HSE", "MMP", "p53")
TOX21_TARGETS = (
    *(f"NR-{receptor}" for receptor in TOX21_NUCLEAR),
    *(f"SR-{response}" for response in TOX21_STRESS),
)
MUV_ASSAYS = (466, 548, 600, 644, 652, 689, 692, 712, 713, 733, 737, 810, 832, 846, 852, 858, 859)
# The file heads two groups of columns, PBE0 with a small and a large basis, alike; pandas tells
# them apart by ".1".
QM8_METHODS = (("CC2", ""), ("PBE0", ""), ("PBE0", ".1"), ("CAM", ""))
QM8_TARGETS = tuple(
    f"{quantity}-{method}{again}"
    for method, again in QM8_METHODS
    for quantity in ("E1", "E2", "f1", "f2")
)
QM9_UNITS = {
    "mu": "D",
    "alpha": "bohr^3",
    "homo": "hartree",
    "lumo": "hartree",
    "gap": "hartree",
    "r2": "bohr^2",
    "zpve": "hartree",
    "cv": "cal/(mol K)",
    "u0": "hartree",
    "u298": "hartree",
    "h298": "hartree",
    "g298": "hartree",
}

_TASKS = (
    Task(
        name="bundled",
        title="activity (pIC50) of one ChEMBL series, shipped with RDKit",
        file="CHEMBL2321810.smi",
        targets=("activity",),
        kind="regression",
        metric="rmse",
        split="random",
        columns=1,
        editions={1_017: "7cd936b4eefefbe81471031de31ad07d68ae922228fc4ee939c9b5ee155d39c5"},
        citation="ChEMBL document CHEMBL2321810, as in RDKit's Contrib/FreeWilson",
        licence="CC BY-SA 3.0 (ChEMBL)",
        bucket=None,
    ),
    Task(
        name="esol",
        title="solubility in water",
        file="delaney-processed.csv",
        targets=("measured log solubility in mols per litre",),
        kind="regression",
        metric="rmse",
        split="random",
        columns=1,
        editions={1_128: "9c5c9f9bfa788d0733ec55d8a7728b8f80aa45e79be3cae394a33d3e269e0069"},
        units=("log10(mol/L)",),
        citation="Delaney, J. Chem. Inf. Comput. Sci. 2004, 44, 1000",
    ),
    Task(
        name="freesolv",
        title="hydration free energy",
        file="SAMPL.csv",
        targets=("expt",),
        kind="regression",
        metric="rmse",
        split="random",
        columns=1,
        editions={642: "f1013fd2adad1cf78fad811a4bfb0c4feb6fd04fcfe8f4f87037bcb0fdb6d68c"},
        units=("kcal/mol",),
        citation="Mobley and Guthrie, J. Comput. Aided Mol. Des. 2014, 28, 711",
    ),
    Task(
        name="lipophilicity",
        title="octanol/water distribution (log D at pH 7.4)",
        file="Lipophilicity.csv",
        targets=("exp",),
        kind="regression",
        metric="rmse",
        split="random",
        columns=1,
        editions={4_200: "dc1508c566578ad68ce5e28de093919dfe3f977f1c8168548cac33d9911181f1"},
        citation="Hersey, ChEMBL deposited data set, 2015, doi:10.6019/CHEMBL3301361",
        licence="CC BY-SA 3.0 (ChEMBL)",
    ),
    Task(
        name="bbbp",
        title="penetration of the blood-brain barrier",
        file="BBBP.csv",
        targets=("p_np",),
        kind="binary",
        metric="roc_auc",
        split="scaffold",
        columns=1,
        editions={2_050: "b684158b49dc591cc761e65021d39ce861ac7e13ed3c118c9c3d9a6caf4b13cf"},
        citation="Martins et al., J. Chem. Inf. Model. 2012, 52, 1686",
    ),
    Task(
        name="bace",
        title="inhibition of human beta-secretase 1",
        file="bace.csv",
        smiles="mol",
        targets=("Class",),
        kind="binary",
        metric="roc_auc",
        split="scaffold",
        columns=1,
        editions={1_513: "04a55e9debbdacc6f74f5221cc78b1b2f00155b80b5db39685366f9d741048b7"},
        citation="Subramanian et al., J. Chem. Inf. Model. 2016, 56, 1936",
    ),
    Task(
        name="clintox",
        title="approval by the FDA, and failure in clinical trials for toxicity",
        file="clintox.csv.gz",
        targets=("FDA_APPROVED", "CT_TOX"),
        kind="binary",
        metric="roc_auc",
        split="random",
        columns=2,
        editions={1_484: "7832888308e5420de4fea3423d9203ca77ea3cee78b2933e232d701d1c2d54a3"},
        citation="Gayvert et al., Cell Chem. Biol. 2016, 23, 1294",
    ),
    Task(
        name="sider",
        title="side effects of marketed drugs, by organ class",
        file="sider.csv.gz",
        targets=SIDER_TARGETS,
        kind="binary",
        metric="roc_auc",
        split="random",
        columns=27,
        editions={1_427: "a457424f13e3aafe139deda72ab0483c8b90bd17a4c72742ee9d07b4e820737f"},
        citation="Kuhn et al., Nucleic Acids Res. 2016, 44, D1075",
        licence="CC BY-NC-SA (SIDER)",
    ),
    Task(
        name="tox21",
        title="toxicity in twelve assays",
        file="tox21.csv.gz",
        targets=TOX21_TARGETS,
        kind="binary",
        metric="roc_auc",
        split="random",
        columns=12,
        editions={7_831: "a708ac9d7d7a6bf95c3b2fd39e92eb50ee99e0076fa1ccf9625a7d3b59fda73a"},
        citation="Tox21 Data Challenge 2014, https://tripod.nih.gov/tox21/challenge/",
    ),
    Task(
        name="toxcast",
        title="toxicity in 617 assays",
        file="toxcast_data.csv.gz",
        targets=(),
        kind="binary",
        metric="roc_auc",
        split="random",
        columns=617,
        editions={8_576: None},
        citation="Richard et al., Chem. Res. Toxicol. 2016, 29, 1225",
    ),
    Task(
        name="hiv",
        title="inhibition of HIV replication",
        file="HIV.csv",
        targets=("HIV_active",),
        kind="binary",
        metric="roc_auc",
        split="scaffold",
        columns=1,
        # duplicates were merged after publication
        editions={
            41_127: None,
            41_913: "5a58162bc14dad8a7575649badc082c4e3dbc9f60326237325971e82820a62a8",
        },
        citation="AIDS Antiviral Screen, Developmental Therapeutics Program, NCI/NIH",
    ),
    Task(
        name="muv",
        title="activity in 17 assays, chosen to be free of easy analogues",
        file="muv.csv.gz",
        targets=tuple(f"MUV-{assay}" for assay in MUV_ASSAYS),
        kind="binary",
        metric="prc_auc",
        split="random",
        columns=17,
        editions={
            93_087: None,
            93_127: "e8c2ce18c77731f69ffcf00728de3c1217ecc28ac695bc2f41bcd69e247f70ce",
        },
        citation="Rohrer and Baumann, J. Chem. Inf. Model. 2009, 49, 169",
    ),
    Task(
        name="pcba",
        title="activity in 128 assays of PubChem",
        file="pcba.csv.gz",
        targets=(),
        kind="binary",
        metric="prc_auc",
        split="random",
        columns=128,
        editions={437_929: None},
        citation="Wang et al., Nucleic Acids Res. 2012, 40, D400",
    ),
    Task(
        name="qm7",
        title="atomization energy, computed with PBE0",
        file="qm7.csv",
        targets=("u0_atom",),
        kind="regression",
        metric="mae",
        split="stratified",
        columns=1,
        editions={6_834: None},
        units=("kcal/mol",),
        citation="Rupp et al., Phys. Rev. Lett. 2012, 108, 058301",
    ),
    Task(
        name="qm8",
        title="lowest two excitations: energy and strength, computed with four methods",
        file="qm8.csv",
        targets=QM8_TARGETS,
        kind="regression",
        metric="mae",
        split="random",
        columns=16,
        editions={21_786: None},
        units=("hartree", "hartree", "", "") * 4,
        citation="Ramakrishnan et al., J. Chem. Phys. 2015, 143, 084111",
    ),
    Task(
        name="qm9",
        title="twelve properties, computed with B3LYP",
        file="qm9.csv",
        targets=tuple(QM9_UNITS),
        kind="regression",
        metric="mae",
        split="random",
        columns=12,
        editions={133_885: None},
        units=tuple(QM9_UNITS.values()),
        citation="Ramakrishnan et al., Sci. Data 2014, 1, 140022",
        licence="CC0 (QM9)",
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
"""Every data set that `load` knows by name."""
