"""`fit(recipe, data) -> Run`: the map of the package, one room a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from . import baselines, datasets, environment, inference, metrics, reading, report, runs, splits
from .batches import PackedMolecules
from .datasets import Kind, MoleculeTable
from .epochs import Listener, Trainer, loss_name, metric_name
from .files import RunError, read_model, write_atomic, write_json
from .gaussian_process import MOST_ROWS, GaussianProcess
from .molecules import InvalidMolecule
from .recipes import DataConfig, Recipe, TrainingConfig
from .records import RunInfo, Scalers
from .runs import Run
from .scaling import Standardizer, fit_descriptors
from .splits import PARTS, Split


def fit(
    recipe: Recipe | str | Path,
    data: MoleculeTable | str | Path,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    baseline: bool = False,
    progress: Listener | None = None,
    processes: int | None = None,
    on_read: reading.Progress | None = None,
) -> Run:
    """Train `recipe` on `data` and leave a run folder.

    Parameters
    ----------
    recipe : a `Recipe`, the name of a shipped one, or a TOML file.
    data : a `MoleculeTable`, the name of a MoleculeNet task, or a file.
    out : the run folder, new or empty; `runs/<name>-<n>` if not given.
    seed : decides split, weights, order and dropout; same seed, same run on the CPU.
    device : `auto` (CUDA, then MPS, then the CPU) or a torch device.
    resume : go on with the run in `out`, if it holds one.
    baseline : also score a random forest on the same rows.
    progress : called after every step.
    processes : how many read the molecules; one a core, where it pays, if not given.
    on_read : called with the molecules read so far and in all.

    Raises
    ------
    ValueError : bad data, recipe, split or run folder, in one sentence that says what to try.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    table = data if isinstance(data, MoleculeTable) else load_table(recipe, data)
    folder = open_folder(out, table.source, resume)
    device = str(environment.pick_device(device))
    check_served(recipe.training, table.kind)
    how: dict[str, Any] = {"processes": processes, "progress": on_read}
    how["fingerprints"] = recipe.counted
    prepared = prepare(table, recipe.data, seed, baseline=baseline, **how)
    scalers = fit_scalers(prepared)
    run = start_run(folder, recipe, table, prepared, scalers, seed, device)
    if run.finished:
        return run
    packed = train_members(run, prepared, progress)
    finish_run(run, packed, prepared)
    return Run.load(folder, device=device)


def fit_repeats(
    recipe: Recipe,
    data: MoleculeTable,
    repeats: int,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    **choices: Any,
) -> list[Run]:
    """`fit` with the seeds `seed` ... `seed + repeats - 1`, each its own split and weights.

    Folders `out/seed-<s>`. One that is finished is read, not trained again, so that the same call
    goes on where it stopped. `choices` are those of `fit`.
    """
    folder = open_folder(out, data.source, resume=True)
    request = Repeats(
        source=origin(data), digest=data.digest(), kind=data.kind, repeats=repeats, seed=seed
    )
    record = folder / "repeats.json"
    if not record.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "recipe.toml", recipe.to_toml().encode())
        write_json(record, request.model_dump())
    elif read_model(record, Repeats) != request or Recipe.load(folder / "recipe.toml") != recipe:
        raise RunError(f"{folder} holds repeats with another recipe or data; choose another --out")
    return [
        fit(recipe, data, out=folder / f"seed-{s}", seed=s, resume=True, **choices)
        for s in range(seed, seed + repeats)
    ]


class Repeats(BaseModel):
    """`repeats.json`: which runs a folder of repeats is to hold."""

    source: str
    digest: str
    kind: Kind
    repeats: int
    seed: int


@dataclass(frozen=True)
class Readable:
    """What could be read of the table `source`: its rows, what was made of them, the others."""

    source: MoleculeTable
    table: MoleculeTable
    read: reading.Reading
    bad: list[InvalidMolecule]


@dataclass(frozen=True)
class Prepared:
    """A table behind the door: what could be read, how it is split, and what could not.

    `fingerprints` are there if anything asked for them, the recipe's data or not; `problem` is what
    a baseline learns from, where one is asked for.
    """

    table: MoleculeTable
    packed: PackedMolecules
    descriptors: np.ndarray | None
    fingerprints: np.ndarray | None
    split: Split
    bad: list[InvalidMolecule]
    problem: baselines.Problem | None

    def counts(self) -> np.ndarray:
        """The fingerprints, where they were asked for."""
        assert self.fingerprints is not None
        return self.fingerprints


def load_table(
    recipe: Recipe, data: str | Path, *, kind: Kind | None = None, **where: Any
) -> MoleculeTable:
    """The table `data` with the columns that the recipe names; `where` goes to `datasets.load`."""
    choices = recipe.data
    return datasets.load(
        data,
        smiles=choices.smiles_column,
        targets=choices.targets or None,
        split_column=choices.split_column,
        kind=kind or choices.kind,
        **where,
    )


def origin(table: MoleculeTable) -> str:
    """Where the table can be found again, from any folder."""
    path = Path(table.source)
    return str(path.resolve()) if path.is_file() else table.source


def open_folder(out: str | Path | None, source: str, resume: bool) -> Path:
    """The run folder: the one asked for, or the next free `runs/<name>-<n>`."""
    if out is None:
        stem = Path(source).name.split(".")[0] or "run"
        return next(f for n in range(1, 10**6) if not (f := Path("runs") / f"{stem}-{n}").exists())
    folder = Path(out)
    if folder.is_file():
        raise RunError(f"{folder} is a file; --out names a folder")
    if not resume and folder.is_dir() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty; choose another --out, or go on with --resume")
    return folder


def check_served(settings: TrainingConfig, kind: Kind) -> None:
    """Refuse a metric or loss that the labels do not allow, before anything is written."""
    metric_name(settings, kind)
    loss_name(settings, kind)


def prepare(
    table: MoleculeTable, choices: DataConfig, seed: int, *, baseline: bool = False, **how: Any
) -> Prepared:
    """Read every molecule, keep the faults with their rows, split what can be read.

    `how` (processes, progress) goes to `reading.read`, which has the cache at hand.
    """
    if baseline:
        how |= {"descriptors": True, "fingerprints": True}
    return divide(read_rows(table, choices, **how), choices, seed, baseline=baseline)


def read_rows(table: MoleculeTable, choices: DataConfig, **how: Any) -> Readable:
    """The rows of `table` that can be read, with scaffolds where the split asks for them.

    `how` goes to `inference.read_molecules`.
    """
    how = {"scaffolds": "scaffold" in choices.split, "keep": True, **how}
    return readable(table, inference.read_molecules(table.smiles, choices, **how))


def readable(table: MoleculeTable, read: reading.Reading) -> Readable:
    """The rows that could be read, one at least, and the faults of the others."""
    bad = [
        InvalidMolecule(fault.smiles, int(row), fault.reason)
        for row, fault in zip(np.delete(table.rows, read.index), read.errors, strict=True)
    ]
    if not len(read.index):
        raise datasets.DataError(
            f"none of the {len(table)} rows of {table.source} can be read; the first: {bad[0]}"
        )
    return Readable(table, table.take(read.index), read, bad)


def split_rows(rows: Readable, choices: DataConfig, seed: int) -> Split:
    """The recipe's split, as positions among the rows that could be read; one to learn from."""
    if choices.split == "file":
        saved = read_split(Path(choices.split_file or ""), rows.source)
        split = readable_part(saved, rows.table)
    else:
        split = make_split(rows.table, rows.read.scaffolds, choices, seed)
    refuse_unlearnable(rows.table, split)
    return split


def divide(rows: Readable, choices: DataConfig, seed: int, *, baseline: bool = False) -> Prepared:
    """What a model of these choices learns from, and on which rows."""
    table, read = rows.table, rows.read
    assert read.packed is not None
    return Prepared(
        table=table,
        packed=read.packed,
        descriptors=read.descriptors if choices.descriptors else None,
        fingerprints=read.fingerprints,
        split=split_rows(rows, choices, seed),
        bad=rows.bad,
        problem=baselines.Problem.of(table, read, choices.salts, choices.charges)
        if baseline
        else None,
    )


def make_split(
    table: MoleculeTable, scaffolds: Sequence[str] | None, choices: DataConfig, seed: int
) -> Split:
    """The recipe's split of the readable molecules, as positions in `table`."""
    if choices.split == "k_fold":
        folds = splits.k_fold(len(table), choices.folds, choices.split_seed or 0)
        return folds[seed % choices.folds]
    fixed = choices.split == "paper"  # its one split is part of the protocol
    return splits.make(
        choices.split,
        n=len(table),
        y=table.y,
        scaffolds=scaffolds,
        column=table.folds,
        seed=choices.split_seed if fixed or choices.split_seed is not None else seed,
        fractions=choices.fractions,
    )


def read_split(path: Path, table: MoleculeTable) -> Split:
    """A saved split of all rows of the table, the unreadable ones too."""
    if not path.is_file():
        raise splits.SplitError(f"there is no split file {path}")
    return splits.from_json(path).check(int(table.rows.max()))


def readable_part(saved: Split, table: MoleculeTable) -> Split:
    """A split of data rows as positions in `table`, which holds the readable ones."""
    rows = table.rows - 1
    return Split(*(np.flatnonzero(np.isin(rows, getattr(saved, part))) for part in PARTS))


def refuse_unlearnable(table: MoleculeTable, split: Split) -> None:
    """Training rows need a label for each task and two that differ, validation rows any label."""
    known = ~np.isnan(table.y)
    y = table.y[split.train]
    bare = ~known[split.train].any(axis=0)
    if bare.any():
        raise datasets.DataError(
            f"{table.source}: no training row has a label for "
            f"{', '.join(np.array(table.tasks)[bare])}; leave the target out, or choose another "
            "split or seed"
        )
    if (np.nanmax(y, axis=0) == np.nanmin(y, axis=0)).all():
        raise datasets.DataError(
            f"{table.source}: the label of {', '.join(table.tasks)} never differs in the "
            f"{len(y)} training rows, so there is nothing to learn; add molecules with other "
            "labels, or choose another target, split or seed"
        )
    if not known[split.valid].any():
        raise datasets.DataError(
            f"{table.source}: no validation row has a label to select the weights by; choose "
            "another split or seed, or leave out rows without a label"
        )


def fit_scalers(prepared: Prepared) -> Scalers:
    """Scales of the targets and of the descriptors, from training rows only."""
    table, raw, train = prepared.table, prepared.descriptors, prepared.split.train
    regression = table.kind == "regression"
    target = (
        Standardizer.fit(table.y[train]) if regression else Standardizer.identity(len(table.tasks))
    )
    return Scalers(target, None if raw is None else fit_descriptors(raw[train]))


def start_run(
    folder: Path,
    recipe: Recipe,
    table: MoleculeTable,
    prepared: Prepared,
    scalers: Scalers,
    seed: int,
    device: str,
) -> Run:
    """Make the run folder; or open the one that is there, after checking that nothing differs."""
    chosen = environment.pick_device(device)
    parts = {part: getattr(prepared.split, part) for part in PARTS}
    counts = {"rows": len(table), "unreadable": len(prepared.bad)}
    info = RunInfo(
        source=origin(table),
        digest=table.digest(),
        seed=seed,
        kind=table.kind,
        tasks=table.tasks,
        units=table.units,
        classes=table.classes,
        molecules=counts | {part: len(index) for part, index in parts.items()},
        bad_rows=tuple((e.row or 0, str(e.smiles), e.reason) for e in prepared.bad),
        versions=environment.provenance(),
        device=environment.device_name(chosen),
    )
    if (folder / "run.json").is_file():
        run = Run.load(folder, device=device)
        check_same(run, recipe, info)
        return run
    rows = {part: (prepared.table.rows[index] - 1).tolist() for part, index in parts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "split.json", rows)
    write_json(folder / "scalers.json", scalers.to_dict())
    write_atomic(folder / "recipe.toml", recipe.to_toml().encode())
    write_json(folder / "run.json", info.model_dump())
    return Run(folder, info, recipe, scalers, chosen)


def train_members(
    run: Run, prepared: Prepared, progress: Listener | None = None
) -> PackedMolecules:
    """Train every member of `run`; returns the molecules as its models read them."""
    labels = run.scalers.target.transform(prepared.table.y)
    counts = prepared.fingerprints if run.recipe.data.fingerprints else None
    packed = inference.describe(
        prepared.packed.labelled(labels), prepared.descriptors, run.scalers, counts
    )
    trainer = Trainer(run, packed, prepared.split, progress)
    for member in range(run.recipe.training.members):
        trainer.train(member)
    return packed


def check_same(run: Run, recipe: Recipe, info: RunInfo) -> None:
    """Refuse to go on with other data, another recipe or another seed."""
    same = {
        "data": run.info.digest == info.digest,
        "seed": run.info.seed == info.seed,
        "recipe": run.recipe == recipe,
    }
    if not all(same.values()):
        other = " and ".join(name for name, equal in same.items() if not equal)
        raise RunError(f"{run.folder} was started with another {other}; choose another --out")


def finish_run(run: Run, packed: PackedMolecules, prepared: Prepared) -> None:
    """Score, draw, and seal the folder with checksums."""
    table, split, info = prepared.table, prepared.split, run.info
    each = run.predict_each(packed)
    models = mean = each.mean(axis=0)
    process = fit_process(run, models[split.valid], prepared)
    if process is not None:
        process.save(run.folder / runs.PROCESS)
        mean = process.mixed(models, prepared.counts())
    judged = {}
    if run.recipe.training.gaussian_process:
        judged[runs.MODELS_ALONE] = models
    if len(each) > 1:
        judged[runs.FIRST_MEMBER] = each[0]
    judged[""] = mean
    scores = {
        which + part: metrics.score_all(info.kind, table.y[index], prediction[index], info.tasks)
        for which, prediction in judged.items()
        for part, index in (("valid", split.valid), ("test", split.test))
    }
    if prepared.problem is not None:
        metric = metric_name(run.recipe.training, info.kind)
        forest = baselines.predict("rf", prepared.problem, split, metric=metric, seed=info.seed)
        found = metrics.score_all(info.kind, table.y[split.test], forest[split.test], info.tasks)
        scores["random forest, test"] = found
    write_json(run.folder / "scores.json", scores)
    report.write_predictions(run, table.take(split.test), mean[split.test])
    report.draw(run, table.y[split.test], mean[split.test])
    run.seal()


def fit_process(run: Run, models: np.ndarray, prepared: Prepared) -> GaussianProcess | None:
    """The Gaussian process beside the models of a run, with the share that validation gives it.

    models -> what they predict of the validation rows. None where the recipe asks for no process,
    where the training rows are too many, and where its share would be 0.
    """
    table, split = prepared.table, prepared.split
    if not run.recipe.training.gaussian_process or len(split.train) > MOST_ROWS:
        return None
    counts = prepared.counts()
    metric, valid = metric_name(run.recipe.training, table.kind), split.valid
    process = GaussianProcess.fit(counts[split.train], table.y[split.train], table.outcomes)
    process = process.sharing(models, counts[valid], table.y[valid], metric)
    return process if process.share else None
