"""`fit(recipe, data) -> Run`: the map of the package, one room a line."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from . import baselines, distributed, environment, inference, metrics, pictures, reading, runs
from .batches import PackedMolecules
from .certainty import Certainty
from .criteria import loss_name, metric_name
from .datasets import Kind, MoleculeTable
from .epochs import Listener, Trainer
from .files import LOCK, RunError, read_model, sealed, unseal, working_on, write_atomic, write_json
from .gaussian_process import MOST_ROWS, GaussianProcess
from .preparation import Prepared, fit_scalers, load_table, prepare, refuse_untested
from .recipes import Recipe, TrainingConfig
from .records import RunInfo, Scalers, write_scores
from .runs import Run
from .splits import PARTS

if TYPE_CHECKING:
    import pandas as pd


def fit(
    recipe: Recipe | str | Path,
    data: MoleculeTable | pd.DataFrame | str | Path,
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

    Processes that torchrun has started train one model together, each on its share of every batch.

    Parameters
    ----------
    recipe : a `Recipe`, the name of a shipped one, or a TOML file.
    data : a data frame, a file, the name of a MoleculeNet task, or a `MoleculeTable`.
    out : the run folder, new or empty; `runs/<name>-<n>` if not given.
    seed : decides split, weights, order and dropout; same seed, same run on the CPU.
    device : `auto` (CUDA, then MPS, then the CPU) or a torch device.
    resume : go on with the run in `out`, if it holds one.
    baseline : also score a random forest on the same rows; one that is finished gets it too.
    progress : called after every step.
    processes : how many read the molecules; one a core, where it pays, if not given.
    on_read : called with the molecules read so far and in all.

    Raises
    ------
    ValueError : bad data, recipe, split or run folder, in one sentence that says what to try.
    """
    distributed.join()
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    table = data if isinstance(data, MoleculeTable) else load_table(recipe, data)
    folder = open_folder(out, table.source, resume)
    device = str(environment.pick_device(device))
    check_served(recipe.training, table.kind)
    how: dict[str, Any] = {"processes": processes, "progress": on_read}
    how |= recipe.data.asked(recipe.training.gaussian_process, nearness=True)
    reads = partial(prepare, table, recipe.data, seed, baseline=baseline, **how)
    prepared = distributed.in_turn(reads)
    if baseline:
        refuse_untested(prepared.table, prepared.split)
    scalers = fit_scalers(prepared, recipe.data)
    start = partial(start_run, folder, recipe, table, prepared, scalers, seed, device)
    if distributed.told(sealed, folder) and not baseline:
        return start()  # it may lie where nothing can be written
    with distributed.first_alone(working_on(folder)):
        run = distributed.in_turn(start)
        if distributed.told(lambda: run.finished):
            if not baseline or distributed.told(lambda: runs.FOREST in run.scores):
                return run
            distributed.told(unseal, folder)
        packed = train_members(run, prepared, progress)
        distributed.told(finish_run, run, packed, prepared)
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
    distributed.join()
    folder = open_folder(out, data.source, resume=True)
    request = Repeats(
        source=origin(data), digest=data.digest(), kind=data.kind, repeats=repeats, seed=seed
    )
    distributed.told(start_repeats, folder, recipe, request)
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


def start_repeats(folder: Path, recipe: Recipe, request: Repeats) -> None:
    """Write down what the folder of repeats is to hold, or check that nothing differs."""
    record = folder / "repeats.json"
    if not record.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "recipe.toml", recipe.to_toml().encode())
        write_json(record, request.model_dump())
    elif read_model(record, Repeats) != request or Recipe.load(folder / "recipe.toml") != recipe:
        raise RunError(
            f"{folder} holds repeats with another recipe or data; name another folder (out)"
        )


def origin(table: MoleculeTable) -> str:
    """Where the table can be found again, from any folder."""
    path = Path(table.source)
    return str(path.resolve()) if path.is_file() else table.source


def open_folder(out: str | Path | None, source: str, resume: bool) -> Path:
    """The run folder: the one asked for, or the next free `runs/<name>-<n>`."""
    return distributed.told(_folder, out, source, resume)


def _folder(out: str | Path | None, source: str, resume: bool) -> Path:
    if out is None:
        stem = Path(source).name.split(".")[0] or "run"
        return next(f for n in range(1, 10**6) if not (f := Path("runs") / f"{stem}-{n}").exists())
    folder = Path(out)
    if folder.is_file():
        raise RunError(f"{folder} is a file; name a folder (out)")
    if not resume and folder.is_dir() and _holds_something(folder):
        raise RunError(
            f"{folder} is not empty; name another folder (out), or go on with its run (resume)"
        )
    return folder


def _holds_something(folder: Path) -> bool:
    """Whether there is more than a run leaves that was killed before it wrote what it is."""
    found = {path.name for path in folder.iterdir() if path.suffix != ".partial"}
    return "run.json" in found or not found <= {LOCK, *runs.RECORDS}


def check_served(settings: TrainingConfig, kind: Kind) -> None:
    """Refuse a metric or loss that the labels do not allow, before anything is written."""
    metric_name(settings, kind)
    loss_name(settings, kind)


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
    together = f", {n} processes" if (n := distributed.size()) > 1 else ""
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
        device=environment.device_name(chosen) + together,
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
    packed = as_read(run, prepared)
    trainer = Trainer(run, packed, prepared.split, progress)
    for member in range(run.recipe.training.members):
        trainer.train(member)
    return packed


def as_read(run: Run, prepared: Prepared) -> PackedMolecules:
    """The molecules as the models of `run` read them, with scaled labels."""
    labels = run.scalers.target.transform(prepared.table.y)
    packed, counts = prepared.packed.labelled(labels), prepared.fingerprints
    return inference.describe(packed, prepared.descriptors, counts, run.recipe.data, run.scalers)


def check_same(run: Run, recipe: Recipe, info: RunInfo) -> None:
    """Refuse to go on with other data, another recipe or another seed."""
    same = {
        "data": run.info.digest == info.digest,
        "seed": run.info.seed == info.seed,
        "recipe": run.recipe == recipe,
    }
    if not all(same.values()):
        other = " and ".join(name for name, equal in same.items() if not equal)
        raise RunError(f"{run.folder} was started with another {other}; name another folder (out)")


def finish_run(run: Run, packed: PackedMolecules, prepared: Prepared) -> None:
    """Score, draw, and seal the folder with checksums."""
    table, split, info = prepared.table, prepared.split, run.info
    each = run.predict_each(packed)
    models = mean = each.mean(axis=0)
    std = each.std(axis=0)
    process = fit_process(run, prepared)
    if process is not None:
        process.save(run.folder / runs.PROCESS)
        mean = process.mixed(models, prepared.inputs())
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
        if len(index)
    }
    if prepared.problem is not None:
        metric = metric_name(run.recipe.training, info.kind)
        forest = baselines.predict("rf", prepared.problem, split, metric=metric, seed=info.seed)
        found = metrics.score_all(info.kind, table.y[split.test], forest[split.test], info.tasks)
        scores[runs.FOREST] = found
    write_scores(run.folder / "scores.json", scores)
    fit_certainty(run, prepared, mean, std).save(run.folder / runs.CERTAINTY)
    if len(split.test):
        assert prepared.fingerprints is not None
        found = (part[split.test] for part in (mean, std, prepared.fingerprints))
        pictures.write_predictions(run, table.take(split.test), *found)
    pictures.draw(run, table.y[split.test], mean[split.test])
    run.seal()


def fit_certainty(run: Run, prepared: Prepared, mean: np.ndarray, std: np.ndarray) -> Certainty:
    """What the validation rows tell, by the mean and std that are predicted of all rows."""
    valid, counts = prepared.split.valid, prepared.fingerprints
    assert counts is not None
    return Certainty.fit(
        run.info.kind,
        prepared.table.y[valid],
        mean[valid],
        std[valid],
        counts[valid],
        counts[prepared.split.train],
    )


def fit_process(run: Run, prepared: Prepared) -> GaussianProcess | None:
    """The Gaussian process beside the models of a run.

    None where the recipe asks for no process, and where the training rows are too many.
    """
    table, train = prepared.table, prepared.split.train
    if not run.recipe.training.gaussian_process or len(train) > MOST_ROWS:
        return None
    return GaussianProcess.fit(prepared.inputs().take(train), table.y[train], table.outcomes)
