"""Finished runs on these splits: found, checked, and the rows that they give."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from ..files import read_json, rounded
from ..recipes import Recipe
from ..runs import FIRST_MEMBER, MODELS_ALONE, Run, find_runs
from ..spaces import PROTOCOL
from .compared import Comparison
from .rows import OURS, CompareError, Row, add_rows


def named_runs(comparison: Comparison, folders: Sequence[Path]) -> list[Run]:
    """The runs of these folders, of the seeds that are compared; refuses one that does not fit."""
    runs = []
    for folder in folders:
        found = find_runs(folder)
        if not found:
            raise CompareError(f"{folder} is no run folder and holds none; name one with --runs")
        runs += [Run.load(path, device="cpu") for path in found]
    chosen = [run for run in runs if run.info.seed in comparison.splits]
    if runs and not chosen:
        seeds = ", ".join(map(str, comparison.splits))
        raise CompareError(f"no run in {folders[0]} has one of the seeds {seeds}; choose --seeds")
    for run in chosen:
        if reason := mismatch(comparison, run):
            raise CompareError(f"{run.folder} {reason}")
    return chosen


def fitting_runs(comparison: Comparison, folder: Path) -> list[Run]:
    """The runs under `folder` that can be compared; others are passed over."""
    runs = []
    for path in find_runs(folder):
        try:
            run = Run.load(path, device="cpu")
        except ValueError:
            continue
        if run.info.seed in comparison.splits and not mismatch(comparison, run):
            runs.append(run)
    return runs


def mismatch(comparison: Comparison, run: Run) -> str:
    """Why a run cannot stand beside these baselines, "" where it can."""
    if not run.finished:
        return "is not finished; go on with molsam train --resume"
    if run.info.digest != comparison.digest:
        return f"was trained on other data than {comparison.name}; name its own"
    if read_json(run.folder / "split.json") != comparison.parts(run.info.seed):
        return (
            f"has another split than {comparison.protocol} with seed {run.info.seed}; choose the "
            "--split that it was trained with"
        )
    if comparison.metric not in run.scores["test"]:
        return f"has no score by {comparison.metric}; compare it with a --recipe of its own kind"
    return ""


def run_rows(comparison: Comparison, runs: Sequence[Run]) -> list[Row]:
    """The rows of each run. Runs of one recipe are one model: `molsam`, or several by folder."""
    recipes = list(dict.fromkeys(recipe_digest(run.recipe) for run in runs))
    names: dict[str, str] = {}
    rows: dict[tuple[str, int], Row] = {}
    for run in runs:
        digest = recipe_digest(run.recipe)
        own = names.setdefault(digest, _folder_name(run.folder))
        title = f"{OURS} {own}" if len(recipes) > 1 else OURS
        rows |= {(row.model, row.seed): row for row in rows_of(comparison, run, title)}
    return list(rows.values())


def record(comparison: Comparison, runs: Sequence[Run], path: Path) -> None:
    """Add the rows of the runs to a CSV, where `recipe_digest` names the models."""
    each = [rows_of(comparison, run, f"{OURS} {recipe_digest(run.recipe)}") for run in runs]
    add_rows(path, [row for rows in each for row in rows])


def rows_of(comparison: Comparison, run: Run, model: str) -> list[Row]:
    """The rows of a run: of all that it is made of, then of its parts alone (see `titles`)."""
    seconds, judged = _seconds(run), run.scores
    found = []
    for title, which in titles(model, run.recipe).items():
        scores = {
            part: rounded(judged[which + part][comparison.metric]["mean"])
            for part in ("valid", "test")
        }
        spent = seconds[0] if which == FIRST_MEMBER else sum(seconds)
        extra = {"seconds": round(spent, 1), "versions": _versions(run)}
        found.append(comparison.row(run.info.seed, title, **scores, **extra))
    return found


def titles(model: str, recipe: Recipe) -> dict[str, str]:
    """Title: which scores of a run it stands for.

    `MODEL x5 + GP` for five models and a Gaussian process, `MODEL x5` for these models alone and
    `MODEL` for one of them.
    """
    members, process = recipe.training.members, recipe.training.gaussian_process
    ensemble = f"{model} x{members}" if members > 1 else model
    found = {f"{ensemble} + GP": ""} if process else {}
    found[ensemble] = MODELS_ALONE if process else ""
    return found if members == 1 else {**found, model: FIRST_MEMBER}


def recipe_digest(recipe: Recipe) -> str:
    """Eight letters for how each member is trained, whatever the rows and the protocol.

    Every field with a value counts: where a default changes, so does the digest.
    """
    fields = recipe.model_dump(mode="json", exclude_none=True)
    for key in (*PROTOCOL, "training.members", "training.gaussian_process"):
        *section, field = key.split(".")
        (fields[section[0]] if section else fields).pop(field, None)
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]


def _folder_name(folder: Path) -> str:
    """The run's own name, or that of the repeats it belongs to."""
    return folder.parent.name if folder.name.startswith("seed-") else folder.name


def _seconds(run: Run) -> list[float]:
    """Of training, for each member."""
    histories = (csv.DictReader((m / "history.csv").open(encoding="utf-8")) for m in run.members)
    return [sum(float(line["seconds"]) for line in lines) for lines in histories]


def _versions(run: Run) -> str:
    return ", ".join(f"{name} {run.info.versions[name]}" for name in ("molsam", "torch", "rdkit"))
