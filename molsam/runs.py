"""What training leaves behind: a folder of weights, choices, scales and scores, and predictions.

    run/
      run.json                 tasks, units, seed, data digest, versions
      recipe.toml              every choice, spelt out
      split.json               train, valid and test as positions in the table, from 0
      scalers.json             scales of the targets and descriptors, from training rows
      scores.json              every metric on valid and, where there are test rows, on test
      predictions.csv          the test rows, if any, measured and predicted
      gaussian_process.safetensors   what joins the models, where there is one
      certainty.safetensors    what validation rows tell of errors, and the training fingerprints
      SHA256SUMS               of what predictions stand on, once the run is finished
      member-0/                one folder a model of the ensemble
        weights.safetensors    after the last epoch; with patience, after the best on validation
        history.csv            one row an epoch
        checkpoint.safetensors while it trains: all that `resume` needs

Every file is safetensors, JSON, TOML, CSV or PNG: loading a run executes nothing from it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from . import learnt, metrics, molecules, reading
from .batches import PackedMolecules
from .certainty import COVERAGE, Certainty
from .datasets import Chunk, MoleculeTable, frame_chunks, is_table, iter_chunks
from .environment import pick_device
from .files import RunError, check_seal, existing, read_model, seal, sealed
from .gaussian_process import GaussianProcess, Inputs
from .inference import (
    begin_reading,
    by_batches,
    describe,
    infer,
    infer_with_dropout,
    read_molecules,
    to_user,
)
from .models import MoleculeModel
from .recipes import Recipe
from .records import RunInfo, Scalers, read_scores

if TYPE_CHECKING:
    import pandas as pd
    from rdkit.Chem import Mol

Molecules: TypeAlias = "Iterable[str] | pd.DataFrame | str | Path"
CHUNK = 4096
SHOWN = 5  # runs that an error names
RECORDS = ("run.json", "recipe.toml", "split.json", "scalers.json", "scores.json")
WEIGHTS = "weights.safetensors"
CHECKPOINT = "checkpoint.safetensors"
PROCESS = "gaussian_process.safetensors"
CERTAINTY = "certainty.safetensors"
NEARNESS = ("similarity", "in domain")  # columns of predictions
# Before the part of the scores: an ensemble's first model, and all models without the process.
FIRST_MEMBER, MODELS_ALONE = "first member, ", "models alone, "
FOREST = "random forest, test"


@dataclass(frozen=True)
class Run:
    """A trained model with all it needs to predict.

    `run.predict(["CCO"])` gives a DataFrame in the user's units; `run.scores` the scores on the
    test and validation rows; `run.folder` is where everything lies.
    """

    folder: Path
    info: RunInfo
    recipe: Recipe
    scalers: Scalers
    device: torch.device

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> Run:
        """Open a run folder, checking every file it lists against its checksum."""
        folder = Path(folder)
        if not folder.is_dir():
            raise RunError(f"there is no run folder {folder}")
        if (held := find_runs(folder)) and held != [folder]:
            names = ", ".join(map(str, held[:SHOWN])) + ", ..." * (len(held) > SHOWN)
            raise RunError(f"{folder} is no run but holds {len(held)}; name one of {names}")
        if sealed(folder):
            check_seal(folder, [*RECORDS, *_learnt(folder)])
        info = read_model(folder / "run.json", RunInfo)
        recipe = Recipe.load(existing(folder / "recipe.toml"))
        scalers = learnt.scalers(folder / "scalers.json", info, recipe)
        return cls(folder, info, recipe, scalers, pick_device(device))

    @property
    def finished(self) -> bool:
        """Whether training has come to its end."""
        return sealed(self.folder)

    @property
    def members(self) -> list[Path]:
        """Folders of the models that have weights."""
        return [self.folder / Path(name).parent for name in _weights(self.folder)]

    def seal(self) -> None:
        """Mark the run as finished: checksums over all that its predictions stand on."""
        seal(self.folder, [*RECORDS, *_learnt(self.folder)])

    @cached_property
    def models(self) -> list[MoleculeModel]:
        """The ensemble, in evaluation mode on `device`."""
        if not self.members:
            raise RunError(
                f"{self.folder} has no trained model yet; go on with its training (resume)"
            )
        paths = (member / WEIGHTS for member in self.members)
        models = [learnt.model(path, self.info, self.recipe) for path in paths]
        return [model.to(self.device).eval() for model in models]

    @cached_property
    def process(self) -> GaussianProcess | None:
        """The Gaussian process that joins the models, where there is one."""
        return learnt.process(self.folder / PROCESS, self.info)

    @cached_property
    def certainty(self) -> Certainty | None:
        """What tells how sure its predictions are; None until it is finished."""
        return learnt.certainty(self.folder / CERTAINTY, self.info)

    @property
    def scores(self) -> dict[str, Any]:
        """`scores.json`: part -> metric -> {mean, tasks, excluded}; the mean of no task is NaN."""
        return read_scores(self.folder / "scores.json")

    def columns(self) -> list[str]:
        """Names of the prediction columns, a unit in brackets where one is known."""
        units = self.info.units
        if self.info.kind == "binary":
            units = ("probability",) * len(self.info.tasks)
        return [_with_unit(task, unit) for task, unit in zip(self.info.tasks, units, strict=True)]

    def predict(self, molecules: Molecules, **how: Any) -> pd.DataFrame:
        """Predictions in the user's units: one row per input, in order; see `predict_chunks`.

        Those of a data frame have its index.
        """
        import pandas as pd

        frames = list(self.predict_chunks(molecules, **how))
        found = pd.concat(frames, ignore_index=True) if frames else self._predicted(_column([]))
        return found.set_axis(molecules.index) if isinstance(molecules, pd.DataFrame) else found

    def predict_chunks(
        self,
        molecules: Molecules,
        *,
        smiles: str | None = None,
        chunk: int | None = None,
        coverage: float = COVERAGE,
        dropout_passes: int = 0,
        processes: int | None = None,
        progress: Callable[[int, int | None], object] | None = None,
    ) -> Iterator[pd.DataFrame]:
        """`predict`, `chunk` rows at a time, in memory that does not grow with their number.

        While the model works on one chunk, processes read the molecules of the next.

        molecules -> SMILES in anything that can be iterated over, a stream too; or a data frame, or
        a file as `datasets.iter_chunks` reads it, whose column of SMILES may be named by `smiles`.
        chunk -> 4,096 if not given. Molecules of a chunk share batches, so that another one may
        change a prediction by a millionth of its scale.
        coverage -> of the intervals, from `low` to `high`; see `Certainty.interval`.
        dropout_passes -> if any, `std` is that of all models in as many passes with dropout each.
        processes -> how many read molecules; if not given, one a core where there is enough to do.
        progress -> called with the molecules read so far, and in all where that is known.

        Columns: those of the file or frame, else `smiles`; one per task (value, probability or
        class, see `columns`); with several classes `<task> p(<class>)`; with an ensemble or
        dropout `<column> std`; `<column> low` and `<column> high`, or `calibrated` before the
        probabilities at the run's temperature; `similarity` to the nearest training molecule, and
        whether it is `in domain`; `error`, which says why a row has no prediction and is empty
        elsewhere. A name that a file has already gets `predicted ` before it.
        """
        tables = _tables(molecules, smiles, chunk or CHUNK)
        begun = self._begin(tables, _known_length(molecules), processes, progress)
        ahead = next(begun, None)
        while ahead is not None:
            table, finish = ahead
            read = finish()
            ahead = next(begun, None)
            yield self._predicted(table, read, coverage, dropout_passes)

    def _begin(
        self,
        tables: Iterable[Chunk],
        total: int | None,
        processes: int | None,
        progress: Callable[[int, int | None], object] | None,
    ) -> Iterator[tuple[Chunk, Callable[[], reading.Reading]]]:
        """Every table, the reading of its molecules begun."""
        start = 0
        for table in tables:
            # A stream does not tell its length: it is worth what has come of it.
            count = max(total or 0, start + len(table.frame))
            many = processes or reading.worthwhile(count, descriptors=self._asked["descriptors"])
            shown = _shifted(progress, start, total)
            texts = table.frame[table.smiles]
            yield table, self._begin_reading(texts, processes=many, progress=shown)
            start += len(table.frame)

    def _begin_reading(self, smiles: Iterable[str], **how: Any) -> Callable[[], reading.Reading]:
        """`begin_reading` of all that the models, and the process if there is one, read."""
        return begin_reading(smiles, self.recipe.data, **self._asked, **how)

    @property
    def _asked(self) -> dict[str, bool]:
        nearness = self.certainty is not None
        return self.recipe.data.asked(process=self.process is not None, nearness=nearness)

    def predict_mols(self, mols: Sequence[Mol]) -> tuple[np.ndarray, np.ndarray]:
        """(mean, std) of the ensemble in user units: (N, T), for classes (N, T, C).

        The mean is that of the models, and of the Gaussian process by its share; the std is the
        models' alone.
        """
        packed = PackedMolecules.from_mols(mols, self.recipe.data.featurizer)
        asked = self._asked
        raw = reading.descriptor_matrix(mols) if asked["descriptors"] else None
        counts = reading.fingerprint_matrix(mols) if asked["fingerprints"] else None
        return self._predict(packed, raw, counts)

    def _predict(
        self, packed: PackedMolecules, raw: np.ndarray | None, counts: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        each = self.predict_each(self._described(packed, raw, counts))
        mean = each.mean(axis=0)
        if self.process is not None:
            assert raw is not None
            assert counts is not None
            mean = self.process.mixed(mean, Inputs(counts, raw))
        return mean, each.std(axis=0)

    def _described(
        self, packed: PackedMolecules, raw: np.ndarray | None, counts: np.ndarray | None
    ) -> PackedMolecules:
        return describe(packed, raw, counts, self.recipe.data, self.scalers)

    def predict_each(self, packed: PackedMolecules, index: np.ndarray | None = None) -> np.ndarray:
        """What every model, M of them, predicts of the molecules `index`, else of all.

        (M, N, T), for classes (M, N, T, C), in user units.
        """
        outputs = (infer(model, packed, self.recipe, index) for model in self.models)
        return np.stack([to_user(z, self.info, self.scalers) for z in outputs])

    def evaluate(self, table: MoleculeTable, *, processes: int | None = None) -> dict[str, Any]:
        """Every metric on a table of measured molecules; unreadable rows are counted."""
        table = table.with_classes(self.info.classes) if self.info.classes else table
        read = self.read(table.smiles, processes=processes)
        if read.packed is None:
            raise RunError(f"none of the {len(table)} molecules of {table.source} can be read")
        mean, _ = self.predict_read(read)
        found = metrics.score_all(self.info.kind, table.y[read.index], mean, self.info.tasks)
        return {"molecules": len(read.index), "unreadable": len(read.errors), "scores": found}

    def read(self, smiles: Iterable[str], **how: Any) -> reading.Reading:
        """All that the models, and the process if there is one, read of molecules.

        `how` goes to `reading.begin`. A reading serves `predict_read` and `embed` both.
        """
        return self._begin_reading(smiles, **how)()

    def embed(self, read: reading.Reading) -> np.ndarray:
        """(N, M W) float32: what each of M models has learnt to read of a molecule.

        W values a model, the readout's and behind them those of the embedded fingerprints, where
        the recipe has them: what the head reads, but for the descriptors.
        """
        if read.packed is None:
            raise RunError("no molecule could be read")
        packed = self._described(read.packed, read.descriptors, read.fingerprints)
        parts = (by_batches(m, m.learnt, packed, self.recipe).numpy() for m in self.models)
        return np.hstack(list(parts))

    def predict_read(self, read: reading.Reading) -> tuple[np.ndarray, np.ndarray]:
        """`predict_mols` of the molecules that could be read."""
        if read.packed is None:
            return self._nothing()
        return self._predict(read.packed, read.descriptors, read.fingerprints)

    def spread_with_dropout(self, read: reading.Reading, passes: int) -> np.ndarray:
        """The std, (N, T) or (N, T, C), over all models in as many `passes` with dropout each."""
        if read.packed is None:
            return self._nothing()[1]
        packed = self._described(read.packed, read.descriptors, read.fingerprints)
        how = {"passes": passes, "seed": self.info.seed}
        drawn = (infer_with_dropout(m, packed, self.recipe, **how) for m in self.models)
        each = [to_user(z, self.info, self.scalers) for member in drawn for z in member]
        if not np.ptp(each, axis=0).any():
            raise RunError(
                f"the models of {self.folder} have no dropout, so that passes do not differ; train "
                "with --set model.dropout=0.1, or leave the passes out"
            )
        return np.std(each, axis=0)

    def _predicted(
        self,
        table: Chunk,
        read: reading.Reading | None = None,
        coverage: float = COVERAGE,
        passes: int = 0,
    ) -> pd.DataFrame:
        """The table with predictions of what was read of it."""
        import pandas as pd

        count = len(table.frame)
        read = read or read_molecules([], self.recipe.data)
        mean, std = self.predict_read(read)
        spread = self.spread_with_dropout(read, passes) if passes else None
        empty = np.zeros((0, molecules.MORGAN_SIZE))
        counts = read.fingerprints if len(read.index) else empty
        found = self.outcomes(mean, std, counts, coverage=coverage, spread=spread)
        ours: dict[str, Any] = {}
        for name, column in found.items():
            full = np.full(count, None if column.dtype == object else np.nan, column.dtype)
            full[read.index] = column
            ours[name] = full
        ours["error"] = np.full(count, "", dtype=object)
        for fault in read.errors:
            ours["error"][(fault.row or 0) - 1] = fault.reason
        kinds = {
            name: "boolean" if name == NEARNESS[1] else "string"
            for name, column in ours.items()
            if column.dtype == object  # whose type could not be told where there are no rows
        }
        frame = pd.DataFrame(ours, index=table.frame.index).astype(kinds)
        while taken := {name: f"predicted {name}" for name in frame if name in table.frame}:
            frame = frame.rename(columns=taken)
        return table.frame.join(frame)

    def _nothing(self) -> tuple[np.ndarray, np.ndarray]:
        empty = np.empty(self.info.shape(0))
        return empty, empty

    def outcomes(
        self,
        mean: np.ndarray,
        std: np.ndarray,
        counts: np.ndarray | None,
        *,
        coverage: float = COVERAGE,
        spread: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Columns of N predictions, by name, as `predict_chunks` has them.

        mean, std -> as `predict_mols` gives them; counts -> (N, 2048) Morgan counts; spread -> the
        std to show, that of the models if not given.
        """
        out: dict[str, np.ndarray] = {}
        spread = std if spread is None and len(self.members) > 1 else spread
        sure, regression = self.certainty, self.info.kind == "regression"
        ends: dict[str, np.ndarray] = {}
        if sure is not None and regression:
            ends["low"], ends["high"] = sure.interval(mean, std, coverage)
        p = sure.calibrated(mean) if sure is not None and not regression else None
        for t, column in enumerate(self.columns()):
            if self.info.classes:
                out[column] = np.array(self.info.classes, dtype=object)[mean[:, t].argmax(axis=-1)]
            out |= self._values(column, mean[:, t])
            if spread is not None:
                shown = spread[:, t]
                out[f"{column} std"] = shown.max(axis=-1) if self.info.classes else shown
            out |= {f"{column} {end}": values[:, t] for end, values in ends.items()}
            if p is not None:
                out |= self._values(f"{column} calibrated", p[:, t])
        if sure is not None:
            assert counts is not None
            similarity = sure.similarity(counts)
            inside = (similarity >= sure.edge).astype(object)
            out |= dict(zip(NEARNESS, (similarity, inside), strict=True))
        return out

    def _values(self, column: str, values: np.ndarray) -> dict[str, np.ndarray]:
        """(N,) under its name, or (N, C) under those of the classes."""
        if not self.info.classes:
            return {column: values}
        named = zip(self.info.classes, values.T, strict=True)
        return {f"{column} p({name})": of_class for name, of_class in named}


def find_runs(folder: Path) -> list[Path]:
    """Run folders: `folder` itself, or those in it, or in folders of repeats in it."""
    if (folder / "run.json").is_file():
        return [folder]
    found = [*folder.glob("*/run.json"), *folder.glob("*/seed-*/run.json")]
    return sorted(path.parent for path in found)


def _weights(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.glob(f"member-*/{WEIGHTS}"))


def _learnt(folder: Path) -> list[str]:
    others = (name for name in (PROCESS, CERTAINTY) if (folder / name).is_file())
    return [*_weights(folder), *others]


def _with_unit(task: str, unit: str) -> str:
    has_it = task.rstrip().endswith((f"[{unit}]", f"({unit})"))
    return task if has_it or not unit else f"{task} [{unit}]"


def _shifted(
    progress: Callable[[int, int | None], object] | None, start: int, total: int | None
) -> reading.Progress:
    """Progress within a chunk, told as progress of the whole."""
    return lambda done, _: progress and progress(start + done, total)


def _tables(molecules: Molecules, smiles: str | None, chunk: int) -> Iterator[Chunk]:
    """The rows of a file or a data frame, or a column of SMILES, `chunk` at a time."""
    import pandas as pd

    if isinstance(molecules, pd.DataFrame):
        return frame_chunks(molecules, smiles=smiles, chunk=chunk)
    if isinstance(molecules, Path) or (isinstance(molecules, str) and is_table(molecules)):
        return iter_chunks(molecules, smiles=smiles, chunk=chunk)
    if isinstance(molecules, str):
        raise TypeError("predict takes a list of SMILES or a file; for one molecule write [smiles]")
    texts = iter(molecules)
    return map(_column, iter(lambda: list(itertools.islice(texts, chunk)), []))


def _column(texts: list[str]) -> Chunk:
    import pandas as pd

    return Chunk(pd.DataFrame({"smiles": texts}), "smiles")


def _known_length(molecules: Molecules) -> int | None:
    if isinstance(molecules, Sized) and not isinstance(molecules, str):
        return len(molecules)
    return None
