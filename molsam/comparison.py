"""Baselines and trained models on the same splits: scores by seed, and what differences mean.

`Comparison.of` splits a table as `fit` does with the same recipe and seeds. `baseline_rows` fits
what a CSV of results does not hold yet and adds it there, row by row. `run_rows` reads the scores
of finished runs, after a check that their splits are the same, and `record` keeps them beside the
baselines. `summarize` pairs both by seed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from . import baselines, metrics, training
from .baselines import BASELINES, Problem
from .datasets import MoleculeTable
from .epochs import metric_name
from .files import read_json, write_atomic
from .recipes import DataConfig, Recipe
from .runs import FIRST_MEMBER, MODELS_ALONE, Run
from .spaces import PROTOCOL
from .splits import PARTS, Split

OURS = "molsam"


class CompareError(ValueError):
    """What cannot be compared: says why, and what to try."""


class Row(NamedTuple):
    """One fit: scores by `metric`, sizes, wall seconds of the fit, what it was made with and when.

    `split` is a digest of the data and of the rows of all three parts; rows that share `task`,
    `protocol`, `seed` and `model` are one fit.
    """

    task: str
    protocol: str
    split: str
    seed: int
    model: str
    metric: str
    valid: float
    test: float
    n_train: int
    n_test: int
    seconds: float
    versions: str
    date: str

    @property
    def key(self) -> tuple[str, str, int, str]:
        return self.task, self.protocol, self.seed, self.model


@dataclass(frozen=True)
class Comparison:
    """The readable molecules of a table, and how each seed splits them.

    Attributes
    ----------
    name : of the task, or of the file.
    digest : of the whole table.
    rows : position of each readable molecule in the table, from 0.
    splits : seed -> positions among the readable molecules.
    """

    name: str
    protocol: str
    metric: str
    digest: str
    rows: np.ndarray
    problem: Problem
    splits: Mapping[int, Split]

    @classmethod
    def of(
        cls, recipe: Recipe, table: MoleculeTable, seeds: Sequence[int], **how: Any
    ) -> Comparison:
        """`how` (processes, progress) goes to `reading.read`, which has the cache at hand."""
        choices = recipe.data
        parts: dict[str, Any] = {"featurizer": None, "descriptors": True, "fingerprints": True}
        rows = training.read_rows(table, choices, **parts, **how)
        return cls(
            name=Path(table.source).name,
            protocol=protocol(choices),
            metric=metric_name(recipe.training, table.kind),
            digest=table.digest(),
            rows=rows.table.rows - 1,
            problem=Problem.of(rows.table, rows.read, choices.salts, choices.charges),
            splits={seed: training.split_rows(rows, choices, seed) for seed in seeds},
        )

    def parts(self, seed: int) -> dict[str, list[int]]:
        """The split as positions in the whole table, as a run's `split.json` has it."""
        split = self.splits[seed]
        return {part: self.rows[getattr(split, part)].tolist() for part in PARTS}

    def row(self, seed: int, model: str, **found: Any) -> Row:
        """A row of this table and these splits."""
        split = self.splits[seed]
        content = json.dumps([self.digest, self.parts(seed)])
        return Row(
            task=self.name,
            protocol=self.protocol,
            split=hashlib.sha256(content.encode()).hexdigest()[:12],
            seed=seed,
            model=model,
            metric=self.metric,
            n_train=len(split.train),
            n_test=len(split.test),
            **{"date": date.today().isoformat(), **found},
        )


def protocol(choices: DataConfig) -> str:
    """All that decides a split, but for the run's seed: `random 0.8/0.1/0.1`."""
    if choices.split == "file":
        text = f"file {Path(choices.split_file or '').name}"
    elif choices.split == "column":
        text = f"column {choices.split_column}"
    elif choices.split == "k_fold":
        text = f"k_fold {choices.folds}"
    elif choices.split == "paper":
        text = "paper"
    else:
        text = f"{choices.split} {'/'.join(f'{f:g}' for f in choices.fractions)}"
    if choices.split_seed is not None:
        text += f", split seed {choices.split_seed}"
    cleaned = {"salts": choices.salts, "charges": choices.charges}
    return text + "".join(f", {name} {how}" for name, how in cleaned.items() if how != "keep")


# Baselines


def named_baselines(text: str) -> list[str]:
    """`rf,gb` -> the names, each once; refuses one that is none."""
    names = list(dict.fromkeys(word.strip() for word in text.split(",")))
    for name in names:
        if name not in BASELINES:
            raise CompareError(f"no baseline {name!r}; there are {', '.join(BASELINES)}")
    return names


def declined(comparison: Comparison, names: Sequence[str]) -> dict[str, str]:
    """The baselines that do not serve here, with the reason."""
    reasons = {name: BASELINES[name].declines(comparison.problem) for name in names}
    return {name: reason for name, reason in reasons.items() if reason}


def baseline_rows(
    comparison: Comparison,
    names: Sequence[str],
    path: Path,
    *,
    told: Callable[[Row], object] = lambda row: None,
) -> list[Row]:
    """A row for each seed and baseline: from the CSV `path` where it has it, else made and added.

    told -> called with each row that was made, once it is on disk.
    """
    kept = {row.key: row for row in read_rows(path)}
    rows = []
    for seed in comparison.splits:
        for name in names:
            empty = {"valid": math.nan, "test": math.nan, "seconds": 0.0, "versions": ""}
            wanted = comparison.row(seed, name, **empty)
            row = kept.get(wanted.key)
            if row is None:
                row = fit_baseline(comparison, name, seed)
                add_rows(path, [row])
                told(row)
            elif (row.split, row.metric) != (wanted.split, wanted.metric):
                raise CompareError(
                    f"{path}: {name} of {row.task}, seed {seed}, was scored by {row.metric} on "
                    f"split {row.split}, which is not today's ({wanted.metric}, {wanted.split}): "
                    "the data or the metric differ; choose another --out"
                )
            rows.append(row)
    return rows


def fit_baseline(comparison: Comparison, name: str, seed: int) -> Row:
    """Fit one baseline and score it on every molecule of the validation and test parts."""
    problem, split, metric = comparison.problem, comparison.splits[seed], comparison.metric
    began = time.perf_counter()
    prediction = baselines.predict(name, problem, split, metric=metric, seed=seed)
    seconds = time.perf_counter() - began
    scores = {
        part: rounded(
            metrics.score(metric, problem.y[index], prediction[index], problem.tasks).mean
        )
        for part, index in (("valid", split.valid), ("test", split.test))
    }
    return comparison.row(
        seed, name, **scores, seconds=round(seconds, 1), versions=BASELINES[name].versions()
    )


def rounded(score: float) -> float:
    """To six figures."""
    return float(f"{score:.6g}")


# The CSV


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV that `add_rows` wrote; none where there is no file."""
    if not path.is_file():
        return []
    header, *lines = csv.reader(io.StringIO(path.read_text(encoding="utf-8") or "\n"))
    if tuple(header) != Row._fields:
        raise CompareError(
            f"{path} has other columns than {', '.join(Row._fields)}; choose another --out"
        )
    return [_parse_row(path, number, line) for number, line in enumerate(lines, start=1)]


def add_rows(path: Path, rows: Sequence[Row]) -> None:
    """Add rows, in place of those of the same fits; writers take turns.

    A reader sees the file without them or with them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with FileLock(lock):
        every = {row.key: row for row in [*read_rows(path), *rows]}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(every.values())
        write_atomic(path, text.getvalue().encode())


def _parse_row(path: Path, number: int, line: list[str]) -> Row:
    types = (str, str, str, int, str, str, float, float, int, int, float, str, str)
    try:
        return Row._make(kind(cell) for kind, cell in zip(types, line, strict=True))
    except ValueError as error:
        raise CompareError(
            f"{path}: row {number} cannot be read ({error}); correct it, or choose another --out"
        ) from error


# Runs


def find_runs(folder: Path) -> list[Path]:
    """Run folders: `folder` itself, or those in it, or in folders of repeats in it."""
    if (folder / "run.json").is_file():
        return [folder]
    found = [*folder.glob("*/run.json"), *folder.glob("*/seed-*/run.json")]
    return sorted(path.parent for path in found)


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
    seconds = _seconds(run)
    found = []
    for title, which in titles(model, run.recipe).items():
        scores = {
            part: rounded(run.scores[which + part][comparison.metric]["mean"])
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


# What the differences mean


@dataclass(frozen=True)
class Summary:
    """A model over seeds, and beside the reference over the seeds that both have.

    mean, sd of test scores by seed, mean of validation scores; behind -> mean of how far it scores
    behind the reference, in units of the metric, negative where it is ahead; wins -> on how many
    of `pairs` seeds it is ahead; p -> of `corrected_t_test`.
    """

    model: str
    n: int
    valid: float
    mean: float
    sd: float
    behind: float = math.nan
    behind_sd: float = math.nan
    wins: int = 0
    pairs: int = 0
    p: float = math.nan


def summarize(rows: Sequence[Row]) -> list[Summary]:
    """Every model of one table and protocol in order of its first row; ours first is compared with.

    Where one split serves all seeds, nothing is tested.
    """
    models = list(dict.fromkeys(row.model for row in rows))
    reference = next((model for model in models if model.startswith(OURS)), None)
    scores = {m: {row.seed: row.test for row in rows if row.model == m} for m in models}
    ratio = float(np.mean([row.n_test / row.n_train for row in rows]))
    sign = -1 if metrics.METRICS[rows[0].metric].greater_is_better else 1
    out = []
    for model in models:
        test = np.array(list(scores[model].values()))
        valid = float(np.mean([row.valid for row in rows if row.model == model]))
        paired = {}
        if reference is not None and model != reference:
            seeds = [seed for seed in scores[model] if seed in scores[reference]]
            behind = [scores[model][seed] - scores[reference][seed] for seed in seeds]
            paired = _paired(sign * np.array(behind), ratio, resampled(rows))
        out.append(Summary(model, len(test), valid, float(test.mean()), _sd(test), **paired))
    return out


def resampled(rows: Sequence[Row]) -> bool:
    """Whether the splits differ from seed to seed."""
    return len({row.split for row in rows}) > 1


def _paired(behind: np.ndarray, ratio: float, differ: bool) -> dict[str, Any]:
    if not len(behind):
        return {}
    tested = differ and len(behind) > 1
    return {
        "behind": float(behind.mean()),
        "behind_sd": _sd(behind),
        "wins": int((behind < 0).sum()),
        "pairs": len(behind),
        "p": corrected_t_test(behind, ratio)[1] if tested else math.nan,
    }


def corrected_t_test(differences: np.ndarray, ratio: float) -> tuple[float, float]:
    """t = mean(d) / sqrt((1 / J + n_test / n_train) var(d)), and its two-sided p, J - 1 degrees.

    The corrected resampled t-test of Nadeau and Bengio, Machine Learning 52 (2003) 239, section 4:
    J random splits share training and test molecules, so that scores vary less from split to split
    than from data set to data set; the plain paired test, without n_test / n_train, would find
    differences where there are none.

    differences -> (J,) of the two models' scores, J > 1; ratio -> n_test / n_train. The sample
    variance var(d) divides by J - 1.
    """
    from scipy import stats

    count = len(differences)
    spread = math.sqrt((1 / count + ratio) * float(np.var(differences, ddof=1)))
    mean = float(np.mean(differences))
    if spread == 0:
        return (math.nan, math.nan) if mean == 0 else (math.copysign(math.inf, mean), 0.0)
    t = mean / spread
    return t, 2 * float(stats.t.sf(abs(t), count - 1))


def _sd(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def verdicts(metric: str, summaries: Sequence[Summary]) -> Iterator[str]:
    """One sentence for each baseline that is ahead of the reference, or one that none is."""
    title = metrics.METRICS[metric].title
    beside = [s for s in summaries if s.pairs and s.model in BASELINES]
    ahead = sorted((s for s in beside if s.behind < 0), key=lambda s: s.behind)
    reference = next((s.model for s in summaries if s.model.startswith(OURS)), OURS)
    for s in ahead:
        p = "" if math.isnan(s.p) else f", p = {s.p:.2g}"
        yield (
            f"{BASELINES[s.model].title} wins over {reference} by {-s.behind:.3f} {title} on "
            f"average, and on {s.wins} of {s.pairs} seeds{p}"
        )
    if beside and not ahead:
        names = ", ".join(BASELINES[s.model].title for s in beside)
        yield f"{reference} is ahead of {names} on average"
