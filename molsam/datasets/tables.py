"""A table of molecules and labels, from any file or data frame."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd

from molsam.datasets.files import DataError, existing_column, listed, read_frame, smiles_column
from molsam.metrics import Kind

logger = logging.getLogger(__name__)

MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "<na>", "null", "none"})
TRUTH = {"true": 1.0, "false": 0.0}
LARGEST = float(np.finfo(np.float32).max)
NOT_A_TARGET = re.compile(
    r"(.*[\W_])?(id|cid|idx|index|num|no|nr|number|row|name|split|fold|set)"
    r"|unnamed: \d+|__index_level_\d+__|",
    re.IGNORECASE,
)
UNIT = re.compile(r".*\S\s*[\[(]([^\[\]()]+)[\])]\s*")
MOST_CLASSES = {"numbers": 10, "texts": 20}


class Columns(NamedTuple):
    """Which columns of a frame are read: SMILES and targets."""

    smiles: str
    targets: tuple[str, ...]


@dataclass(frozen=True)
class MoleculeTable:
    """N molecules with T labels each, in the order of their source, unreadable molecules too.

    Attributes
    ----------
    smiles : N texts as they stand in the source, outer blanks aside; "" where there is none.
    y : (N, T) float32. Labels in the user's units, NaN where missing; for `multiclass` the
        position of the label in `classes`. T is 0 in a table without labels.
    tasks : names of the T label columns.
    kind : what the labels are.
    units : unit of each task, "" where unknown.
    classes : names of the classes, for `multiclass` alone.
    source : the file or task that they come from.
    rows : (N,) int64. Data row of each molecule in its source, from 1.
    folds : value of the source's split column for each molecule, where one was asked for.
    spoilt : columns that a few texts among their numbers keep from being targets, each with the
        first of them, where targets were not named.
    """

    smiles: tuple[str, ...]
    y: np.ndarray
    tasks: tuple[str, ...]
    kind: Kind
    units: tuple[str, ...]
    classes: tuple[str, ...]
    source: str
    rows: np.ndarray
    folds: tuple[str, ...] | None = None
    spoilt: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.smiles)

    @property
    def outcomes(self) -> int:
        """How many classes a label is one of; 0 for regression."""
        return {"regression": 0, "binary": 2}.get(self.kind, len(self.classes))

    def take(self, index: np.ndarray | list[int] | slice) -> MoleculeTable:
        """The molecules at `index` (positions or a mask), in that order."""
        at = np.arange(len(self))[index]
        return replace(
            self,
            smiles=tuple(self.smiles[i] for i in at),
            y=self.y[at],
            rows=self.rows[at],
            folds=self.folds and tuple(self.folds[i] for i in at),
        )

    def with_classes(self, classes: Sequence[str]) -> MoleculeTable:
        """The same labels as positions in `classes`, say those that a model was trained on."""
        unknown = set(self.classes) - set(classes)
        if unknown:
            raise DataError(
                f"{self.source}: {listed(sorted(unknown))} is not among the classes "
                f"{listed(classes)}; correct these labels or leave them blank"
            )
        position = np.array([*map(list(classes).index, self.classes), np.nan], np.float32)
        codes = np.where(np.isnan(self.y), -1, self.y).astype(int)
        return replace(self, y=position[codes], classes=tuple(classes))

    def digest(self) -> str:
        """SHA-256 of SMILES and labels in hex: the same content in any format has the same."""
        y = np.where(np.isnan(self.y), np.nan, self.y).astype("<f4")  # NaN has many bit patterns
        return hashlib.sha256("\n".join(self.smiles).encode() + b"\0" + y.tobytes()).hexdigest()


def read_table(
    path: str | Path,
    *,
    smiles: str | None = None,
    targets: Sequence[str] | None = None,
    kind: Kind | None = None,
    split_column: str | None = None,
) -> MoleculeTable:
    """Molecules and labels from a CSV, TSV, Parquet, SD or .smi file (see `iter_chunks`).

    The other arguments, the guesses and the errors are those of `table_from_frame`.
    """
    chunk = read_frame(path, smiles=smiles)
    return table_from_frame(
        chunk.frame,
        source=str(path),
        smiles=chunk.smiles,
        targets=targets,
        kind=kind,
        split_column=split_column,
    )


def table_from_frame(
    frame: pd.DataFrame,
    *,
    source: str = "the table",
    smiles: str | None = None,
    targets: Sequence[str] | None = None,
    kind: Kind | None = None,
    split_column: str | None = None,
) -> MoleculeTable:
    """Molecules and labels of a data frame, every row in place.

    A label is missing where it is blank, NA, N/A, NaN, null or None in any case; True and False
    are 1 and 0. A column `logS [mol/L]` or `Ki (nM)` gives its task that unit.

    Parameters
    ----------
    smiles, targets : columns; those of `guess_columns` if not given. `targets=[]` reads
        molecules alone.
    kind : what the labels are. If not given: `binary` if all are 0 or 1; `multiclass` if the one
        target holds all of 0 ... C-1 and nothing else, each twice or more, with C from 3 to 10,
        or if named targets hold texts, at most 20 different ones and each on average twice or
        more; else `regression`.
    split_column : column whose texts become `folds`.
    source : how errors name the table.

    Raises
    ------
    DataError : no such column (the nearest are offered), a text or a number out of place (with
        its row), or targets without any label.
    """
    if kind is not None and kind not in get_args(Kind):
        raise DataError(
            f"there is no kind {kind!r} of labels; choose from {listed(get_args(Kind))}"
        )
    if split_column is not None:
        existing_column(frame.columns, split_column, source)
    frame = frame[[name for name in frame.columns if isinstance(name, str)]]
    columns = _columns(frame, smiles, targets, split_column, source)
    y, kind, classes = _labels(frame[list(columns.targets)], kind, targets is not None, source)
    _refuse_unusable(y, columns.targets, kind, source)
    return MoleculeTable(
        smiles=_texts(frame[columns.smiles]),
        y=y.astype(np.float32),
        tasks=columns.targets,
        kind=kind,
        units=tuple(_unit(task, kind) for task in columns.targets),
        classes=classes,
        source=source,
        rows=np.arange(1, len(frame) + 1),
        folds=None if split_column is None else _texts(frame[split_column]),
        spoilt=() if targets is not None else _spoilt(frame, {*columns.targets, columns.smiles}),
    )


def guess_columns(
    frame: pd.DataFrame,
    *,
    smiles: str | None = None,
    split_column: str | None = None,
    source: str = "the table",
) -> Columns:
    """The column of SMILES, and as targets every other column that holds numbers and blanks alone.

    Not a target is a column whose name is, or ends in the word, id, cid, idx, index, num, no, nr,
    number, row, name, split, fold or set.
    """
    smiles = smiles_column(frame.columns, smiles, source)
    targets = [
        name
        for name in frame.columns
        if name not in (smiles, split_column)
        and not NOT_A_TARGET.fullmatch(name)
        and _holds_numbers(frame[name])
    ]
    return Columns(smiles, tuple(targets))


def _columns(
    frame: pd.DataFrame,
    smiles: str | None,
    targets: Sequence[str] | None,
    split_column: str | None,
    source: str,
) -> Columns:
    if targets is None:
        guess = guess_columns(frame, smiles=smiles, split_column=split_column, source=source)
        logger.info("%s: SMILES in %r, targets %s", source, guess.smiles, listed(guess.targets))
        return guess
    targets = [targets] if isinstance(targets, str) else targets
    named = (existing_column(frame.columns, name, source) for name in targets)
    return Columns(smiles_column(frame.columns, smiles, source), tuple(dict.fromkeys(named)))


def _labels(
    labels: pd.DataFrame, kind: Kind | None, named: bool, source: str
) -> tuple[np.ndarray, Kind, tuple[str, ...]]:
    """(N, T) float64 labels, their kind (guessed if None), and the names of their classes."""
    if kind is None and named and labels.size and all(map(_few_texts, _each(labels))):
        kind = "multiclass"
    if kind == "multiclass":
        y, classes = _classes(labels)
        return y, kind, classes
    y = _numbers(labels, source)
    kind = kind or _guess_kind(y)
    highest = int(np.nanmax(y)) if kind == "multiclass" else -1
    return y, kind, tuple(str(c) for c in range(highest + 1))


def _each(frame: pd.DataFrame) -> list[pd.Series]:
    return [frame[name] for name in frame.columns]


def _texts(column: pd.Series) -> tuple[str, ...]:
    return tuple(column.fillna("").astype(str).str.strip())


def _unit(task: str, kind: Kind) -> str:
    found = UNIT.fullmatch(task) if kind == "regression" else None
    return found[1].strip() if found else ""


def _number(value: Any) -> float | None:
    """The label `value` stands for, NaN where missing; None where it is no number."""
    text = str(value).strip().lower()
    if text in MISSING:
        return np.nan
    if text in TRUTH:
        return TRUTH[text]
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) <= LARGEST and "_" not in text else None


def _holds_numbers(column: pd.Series) -> bool:
    known = False
    for value in pd.unique(column.dropna()):
        number = _number(value)
        if number is None:
            return False
        known = known or not np.isnan(number)
    return known


def _spoilt(frame: pd.DataFrame, others: set[str]) -> tuple[str, ...]:
    """Columns that hold more numbers than texts, with the first text of each."""
    found = []
    for name in frame.columns.difference(others, sort=False):
        codes, values = pd.factorize(frame[name])
        numbers = [_number(value) for value in values]
        kinds = np.array(
            [0 if n is None else 1 if np.isfinite(n) else 2 for n in [*numbers, np.nan]]
        )
        kinds = kinds[codes]  # code -1 is missing
        texts, known = (kinds == 0).sum(), (kinds == 1).sum()
        if 0 < texts < known and not NOT_A_TARGET.fullmatch(name):
            first = int(np.argmax(kinds == 0))
            found.append(f"{name!r} (row {first + 1}: {str(frame[name].iloc[first])!r})")
    return tuple(found)


def _few_texts(column: pd.Series) -> bool:
    names = column.map(_class_name)
    counts = names[names != ""].value_counts()
    few = 2 <= len(counts) <= min(MOST_CLASSES["texts"], counts.sum() / 2)
    return few and all(_number(name) is None for name in counts.index)


def _numbers(labels: pd.DataFrame, source: str) -> np.ndarray:
    """(N, T) float64 labels."""
    y = np.full(labels.shape, np.nan)
    for column, name in enumerate(labels.columns):
        codes, values = pd.factorize(labels[name])
        numbers = [_number(value) for value in values]
        if None in numbers:
            first = numbers.index(None)
            raise DataError(
                f"{source}, row {np.argmax(codes == first) + 1}, column {name!r}: "
                f"{str(values[first])!r} is not a number; correct it, leave it blank if the label "
                "is missing, or set data.kind=multiclass if the labels are names of classes"
            )
        y[:, column] = np.array([*numbers, np.nan], dtype=float)[codes]  # code -1 is missing
    return y


def _classes(labels: pd.DataFrame) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N, T) float64 positions in the sorted class names, and these names."""
    names = labels.apply(lambda column: column.map(_class_name))
    known = {name for column in _each(names) for name in column.unique() if name}
    classes = sorted(known, key=lambda name: (_number(name) or 0.0, name))
    position = {name: float(i) for i, name in enumerate(classes)} | {"": np.nan}
    return names.map(position.__getitem__).to_numpy(dtype=float), tuple(classes)


def _class_name(value: Any) -> str:
    text, number = str(value).strip(), _number(value)
    if number is None:
        return text
    if np.isnan(number):
        return ""
    return str(int(number)) if number.is_integer() else text


def _guess_kind(y: np.ndarray) -> Kind:
    values, counts = np.unique(y[~np.isnan(y)], return_counts=True)
    if not len(values):
        return "regression"
    if np.isin(values, (0, 1)).all():
        return "binary"
    steps = np.array_equal(values, np.arange(len(values)))
    if y.shape[1] == 1 and steps and len(values) <= MOST_CLASSES["numbers"] and counts.min() > 1:
        return "multiclass"
    return "regression"


def _refuse_unusable(y: np.ndarray, tasks: Sequence[str], kind: Kind, source: str) -> None:
    """Refuse labels that do not fit the kind, and targets without any label."""
    if kind == "binary":
        _refuse_other_than_0_1(y, tasks, source)
    if tasks and np.isnan(y).all():
        raise DataError(f"{source} has no label in {listed(tasks)}; name another target")


def _refuse_other_than_0_1(y: np.ndarray, tasks: Sequence[str], source: str) -> None:
    wrong = np.argwhere(~np.isnan(y) & ~np.isin(y, (0, 1)))
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"{source}, row {row + 1}, column {tasks[column]!r}: {y[row, column]:g} is neither 0 "
            "nor 1; correct it, or set data.kind"
        )
