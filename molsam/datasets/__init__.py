"""Tables of molecules and labels: files of one's own, the MoleculeNet tasks, and RDKit's own set.

`load("esol")` or `load("mine.csv", targets=["pIC50"])` gives a `MoleculeTable`; `iter_chunks`
streams a file of any size with all its columns; `check` looks a table over.
"""

from molsam.datasets.checks import CheckReport, Labels, check
from molsam.datasets.downloads import download
from molsam.datasets.files import Chunk, DataError, frame_chunks, is_table, iter_chunks, read_frame
from molsam.datasets.loading import cache_folder, fetch, find, load
from molsam.datasets.tables import (
    Columns,
    MoleculeTable,
    guess_columns,
    read_table,
    table_from_frame,
)
from molsam.datasets.tasks import MOLECULENET, TASKS, Task
from molsam.metrics import Kind

__all__ = [
    "MOLECULENET",
    "TASKS",
    "CheckReport",
    "Chunk",
    "Columns",
    "DataError",
    "Kind",
    "Labels",
    "MoleculeTable",
    "Task",
    "cache_folder",
    "check",
    "download",
    "fetch",
    "find",
    "frame_chunks",
    "guess_columns",
    "is_table",
    "iter_chunks",
    "load",
    "read_frame",
    "read_table",
    "table_from_frame",
]
