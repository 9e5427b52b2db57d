"""Loading a table by the name of a task or of a file, downloading it where it is nowhere yet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import platformdirs

from molsam.datasets.downloads import Progress, download
from molsam.datasets.files import DataError, nearest, read_frame
from molsam.datasets.tables import MoleculeTable, read_table, table_from_frame
from molsam.datasets.tasks import TASKS, Task
from molsam.metrics import Kind
from molsam.molecules import bundled_files


def load(
    name_or_path: str | Path | pd.DataFrame,
    *,
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
    smiles: str | None = None,
    targets: Sequence[str] | None = None,
    kind: Kind | None = None,
    split_column: str | None = None,
) -> MoleculeTable:
    """A table with labels: one of `TASKS` by its name, a file, or a data frame.

    A task is looked for in `data_dir`, in the folder `$MOLSAM_DATA` and in the user's cache, and
    downloaded to the cache if it is in none. Wherever it comes from, its content is checked.

    Parameters
    ----------
    progress : called with (bytes, bytes in all or None) during a download.
    smiles, targets, kind, split_column : as in `table_from_frame`; for a task, in place of its
        own.

    Raises
    ------
    DataError : neither a task nor a file, another content than published, no download, or
        no labels.
    """
    choices = {"smiles": smiles, "targets": targets, "kind": kind, "split_column": split_column}
    given = {name: choice for name, choice in choices.items() if choice}
    frame = isinstance(name_or_path, pd.DataFrame)
    task = None if frame else TASKS.get(str(name_or_path).lower())
    if frame:
        table = table_from_frame(name_or_path, source="frame", **given)
    elif task is None:
        table = read_table(_own_file(name_or_path), **given)
    else:
        table = _load_task(task, data_dir, progress, given)
    if not table.tasks:
        alone = f" alone, for a text is in {', '.join(table.spoilt)}" if table.spoilt else ""
        raise DataError(
            f"{table.source} has no column of numbers{alone}; name the columns to predict"
        )
    return table


def find(task: Task, data_dir: str | Path | None = None) -> Path | None:
    """The file of `task` in `data_dir`, `$MOLSAM_DATA` or the cache, None if it is in none.

    In each folder both names will do, ours (esol.csv) and the published one, plain or gzipped.
    """
    names = (f"{task.name}.csv", task.file.removesuffix(".gz"))
    places = (
        folder / f"{name}{ending}"
        for folder in _folders(data_dir)
        for name in names
        for ending in ("", ".gz")
    )
    return next(filter(Path.is_file, places), None)


def fetch(
    task: Task, folder: str | Path, *, progress: Progress | None = None, **patience: Any
) -> Path:
    """Download the published file of `task` into `folder`, unless it is there.

    It gets its name only when it is whole and holds what was published. `patience` (timeout,
    retries, pause) goes to `download`.
    """
    if task.url is None:
        raise DataError(f"{task.name} comes with RDKit; there is nothing to download")
    path = Path(folder) / task.file
    try:
        return download(task.url, path, check=task.read, progress=progress, **patience)
    except DataError as error:
        raise DataError(
            f"{task.name}: {error}; without a connection, copy {task.file} into a folder and "
            "point $MOLSAM_DATA at that folder"
        ) from error


def cache_folder() -> Path:
    """Where downloaded files are kept."""
    return Path(platformdirs.user_cache_dir("molsam"))


def _folders(data_dir: str | Path | None) -> list[Path]:
    named = {"data_dir": data_dir, "$MOLSAM_DATA": os.environ.get("MOLSAM_DATA")}
    folders = {by: Path(folder) for by, folder in named.items() if folder}
    for by, folder in folders.items():
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}, which {by} names")
    return [*folders.values(), cache_folder()]


def _load_task(
    task: Task, data_dir: str | Path | None, progress: Progress | None, given: Mapping[str, Any]
) -> MoleculeTable:
    frame, source = _task_frame(task, data_dir, progress)
    table = task.table(frame, source)
    if not given:
        return table
    own: dict[str, Any] = {"smiles": task.smiles}
    if "targets" not in given:
        own |= {"targets": table.tasks, "kind": task.kind}
    table = table_from_frame(frame, source=source, **{**own, **given})
    published = dict(zip(task.targets, task.units, strict=False))
    units = zip(table.tasks, table.units, strict=True)
    units = tuple(published.get(target, unit) for target, unit in units)
    return replace(table, source=task.name, units=units)


def _task_frame(
    task: Task, data_dir: str | Path | None, progress: Progress | None
) -> tuple[pd.DataFrame, str]:
    if task.url is None:
        return _bundled_frame(), task.file
    path = find(task, data_dir) or fetch(task, cache_folder(), progress=progress)
    return read_frame(path, smiles=task.smiles).frame, str(path)


def _bundled_frame() -> pd.DataFrame:
    molecules, activities = bundled_files()
    activity = pd.read_csv(activities, dtype=str, names=["name", "activity"], header=0)
    return read_frame(molecules).frame.merge(activity, on="name", how="left")


def _own_file(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return path
    raise DataError(
        f"{str(name_or_path)!r} is neither a data set nor a file; "
        f"{nearest(str(name_or_path), TASKS)}"
    )
