"""A run as a function of batches of rows, for what maps functions over a table or a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .runs import Run

if TYPE_CHECKING:
    import pandas as pd

Batch = TypeVar("Batch", bound="pd.DataFrame | Mapping[str, Any]")


class Predictor:
    """`predictor(batch)` is the batch with the predictions behind its columns.

    batch -> a data frame, or a dict of columns, arrays or lists; what comes back is of the same
    kind. The columns are those of `Run.predict`: `error` says why a row has no prediction.

    A predictor is as small as its path wherever it is sent to: the run is opened by the first
    batch, once in each process, from a folder that all of them can read.

    Parameters
    ----------
    run : a run folder.
    smiles : the column of SMILES; guessed from its usual names if not given.
    device : `auto` (CUDA, then MPS, then the CPU) or a torch device.
    processes : how many read the molecules of a batch; one, for the cluster has the others.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        smiles: str | None = None,
        device: str = "auto",
        processes: int = 1,
    ) -> None:
        self.folder = Path(run).resolve()
        self.smiles, self.device, self.processes = smiles, device, processes

    @cached_property
    def run(self) -> Run:
        """The run, open."""
        return Run.load(self.folder, device=self.device)

    def __call__(self, batch: Batch) -> Batch:
        """The rows of `batch`, in order, with their predictions as further columns."""
        import pandas as pd

        frame = batch if isinstance(batch, pd.DataFrame) else pd.DataFrame(dict(batch))
        found = self.run.predict(frame, smiles=self.smiles, processes=self.processes)
        if isinstance(batch, pd.DataFrame):
            return found  # type: ignore[return-value]
        return {name: _array(found[name]) for name in found}  # type: ignore[return-value]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "run"}


def _array(column: pd.Series) -> np.ndarray:
    """Values of numpy and Python alone: None where a row has no truth value, or no class."""
    if column.dtype in ("boolean", "string"):
        column = column.astype(object).where(column.notna(), None)
    return column.to_numpy()
