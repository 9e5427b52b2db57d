"""chemprop's directed message passing, through its own command line and in its own process.

Heid et al., J. Chem. Inf. Model. 64 (2024) 9. chemprop gets the split, keeps the weights of the
epoch with the best validation loss, and has its default settings otherwise.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import molecules
from ..splits import Split
from .problems import BaselineError, Problem

if TYPE_CHECKING:
    import pandas as pd

RDKIT = ("--molecule-featurizers", "v1_rdkit_2d_normalized", "--no-descriptor-scaling")


def unserved(problem: Problem) -> str:
    """Why chemprop does not serve, "" where it does."""
    if shutil.which("chemprop") is None:
        return "it is not installed; put its command on the PATH (pip install chemprop)"
    if problem.kind == "multiclass":
        return "molsam runs it on values and on two classes, not on several"
    return ""


def message_passing(problem: Problem, split: Split, metric: str, seed: int) -> np.ndarray:
    """chemprop on graphs alone."""
    return _train_predict(problem, split, seed, ())


def message_passing_rdkit(problem: Problem, split: Split, metric: str, seed: int) -> np.ndarray:
    """chemprop with normalised RDKit descriptors at the readout, as its authors advise."""
    return _train_predict(problem, split, seed, RDKIT)


def version() -> str:
    """`chemprop 2.2.4`, as its environment says."""
    program = Path(shutil.which("chemprop") or "chemprop")
    code = "from importlib.metadata import version; print(version('chemprop'))"
    found = _call([str(program.resolve().with_name("python")), "-c", code])
    return f"chemprop {found.strip()}"


def _train_predict(
    problem: Problem, split: Split, seed: int, features: Sequence[str]
) -> np.ndarray:
    """(N, T) predictions of the validation and test rows, NaN for others."""
    held = np.concatenate([split.valid, split.test])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frame = _frame(problem, split)
        # Without test rows: chemprop would score them, and fails where none has a label.
        frame.dropna(subset="split").to_csv(folder / "data.csv", index=False)
        frame.loc[held, ["smiles"]].to_csv(folder / "held.csv", index=False)
        _chemprop(
            "train",
            *features,
            data_path=folder / "data.csv",
            output_dir=folder / "model",
            splits_column="split",
            target_columns=_columns(problem),
            task_type="regression" if problem.kind == "regression" else "classification",
            pytorch_seed=seed,
            data_seed=seed,
        )
        _chemprop(
            "predict",
            *features,
            test_path=folder / "held.csv",
            model_paths=folder / "model" / "model_0" / "best.pt",
            preds_path=folder / "predicted.csv",
        )
        out = np.full(problem.y.shape, np.nan)
        out[held] = _read(folder / "predicted.csv", _columns(problem))
    return out


def _frame(problem: Problem, split: Split) -> pd.DataFrame:
    """SMILES as molsam reads them, labels, and `train` or `val`; other rows have no word."""
    import pandas as pd

    parsed = molecules.parse_many(problem.smiles, salts=problem.salts, charges=problem.charges)
    frame = pd.DataFrame({"smiles": list(map(molecules.canonical_smiles, parsed.mols))})
    frame[_columns(problem)] = problem.y
    frame.loc[split.train, "split"] = "train"
    frame.loc[split.valid, "split"] = "val"
    return frame


def _columns(problem: Problem) -> list[str]:
    return [f"y{t}" for t in range(len(problem.tasks))]


def _read(path: Path, columns: Sequence[str]) -> np.ndarray:
    import pandas as pd

    return pd.read_csv(path)[list(columns)].to_numpy(dtype=np.float64)


def _chemprop(command: str, *words: str, **options: object) -> None:
    """`chemprop command words --option value ...`."""
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += (f"--{name.replace('_', '-')}", *map(str, values))
    _call(["chemprop", command, "--smiles-columns", "smiles", *words])


def _call(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise BaselineError(
            f"{' '.join(words[:2])} failed: {''.join(last)}; leave chemprop out of --baselines, "
            "or repair its environment"
        )
    return done.stdout
