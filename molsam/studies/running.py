"""Runs of a study, and the tables and pictures made of all that are finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from .. import datasets, training
from ..files import sealed
from ..runs import Run
from .pairing import costs, draw_gains, gains, verdicts
from .plans import Contest, Study, StudyError
from .rows import Rows, Runs, summarize, write_rows
from .sharpness import compare_sharpness, draw_sharpness


class Conclusion(NamedTuple):
    """What a study says: tables by title, and sentences."""

    summaries: dict[str, Rows]
    sentences: list[str]


def run_study(
    study: Study,
    folder: Path,
    *,
    tasks: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    seeds: int = 5,
    data_dir: Path | None = None,
    device: str = "auto",
) -> Iterator[tuple[dict[str, Any], Run]]:
    """Train every task, variant and seed; yields a row and a run as each is done.

    Runs are `folder/<task>/<variant>/seed-<s>`. One that is finished is read, not trained again,
    so that the same call goes on where it stopped. tasks, variants -> of the study's, all if not
    given; several processes may share a folder, each with tasks of its own.
    """
    tasks = _chosen("task", study.tasks, tasks)
    variants = _chosen("variant", tuple(study.variants), variants)
    for task in tasks:
        table = datasets.load(task, data_dir=data_dir)
        for seed in range(study.first_seed, study.first_seed + seeds):
            for variant in variants:
                recipe, out = study.recipe(task, variant), run_folder(folder, task, variant, seed)
                run = training.fit(recipe, table, out=out, seed=seed, device=device, resume=True)
                yield {"task": task, "variant": variant, "seed": seed, **study.row(run)}, run


def _chosen(what: str, known: Sequence[str], asked: Sequence[str] | None) -> Sequence[str]:
    for name in asked or ():
        if name not in known:
            raise StudyError(f"this study has no {what} {name!r}; it has {'; '.join(known)}")
    return asked or known


def run_folder(folder: Path, task: str, variant: str, seed: int) -> Path:
    """Where a study in `folder` has this run."""
    return folder / task / variant.replace(", ", "-").replace(" ", "-") / f"seed-{seed}"


def finished_runs(study: Study, folder: Path) -> Runs:
    """Every finished run of the study in `folder`, whichever call trained it, in their order.

    Raises:
        StudyError: a run was trained by another recipe than the study has now.
    """
    found = {}
    for task in study.tasks:
        seeds = {int(path.name.removeprefix("seed-")) for path in folder.glob(f"{task}/*/seed-*")}
        for seed, variant in product(sorted(seeds), study.variants):
            path = run_folder(folder, task, variant, seed)
            if sealed(path):
                run = Run.load(path, device="cpu")
                if run.recipe != study.recipe(task, variant):
                    raise StudyError(
                        f"{path} was trained by another recipe; name another folder (out)"
                    )
                found[task, variant, seed] = run
    return found


def conclude(study: Study, folder: Path) -> Conclusion:
    """Write the tables and pictures of all runs of the study that are finished in `folder`.

    Processes that share a folder take turns, so that the last one writes of all runs.
    """
    with FileLock(folder / ".tables.lock"):
        runs = finished_runs(study, folder)
        rows = [
            {"task": task, "variant": variant, "seed": seed, **study.row(run)}
            for (task, variant, seed), run in runs.items()
        ]
        write_rows(rows, folder / "rows.csv")
        if isinstance(study, Contest):
            return _conclude_contest(study, rows, folder)
        return Conclusion(_summaries(rows, runs, folder), [])


def _summaries(rows: Rows, runs: Runs, folder: Path) -> dict[str, Rows]:
    summaries = {f"best validation score ({_metrics(rows)})": summarize(rows, "valid")}
    if "aligned" in rows[0]:
        summaries["share of steps with cosine >= 0"] = summarize(rows, "aligned")
    if "sharpness" in rows[0]:
        equal = compare_sharpness(runs)
        write_rows(equal, folder / "equal_loss.csv")
        draw_sharpness(runs, folder / "sharpness.png")
        title = "top Hessian eigenvalue at equal training loss"
        summaries[title] = summarize(equal, "sharpness")
    return summaries


def _conclude_contest(study: Contest, rows: Rows, folder: Path) -> Conclusion:
    parts = {by: gains(rows, study.reference, by) for by in ("valid", "test")}
    write_rows([{"part": by, **cell} for by in parts for cell in parts[by]], folder / "gains.csv")
    write_rows(costs(rows), folder / "costs.csv")
    draw_gains(rows, study.reference, folder / "gains.png")
    summaries = {
        f"best validation score ({_metrics(rows)})": parts["valid"],
        "test score of the weights that were kept": parts["test"],
        "top Hessian eigenvalue after the last epoch": summarize(rows, "sharpness"),
    }
    return Conclusion(summaries, verdicts(parts["test"], study.reference))


def _metrics(rows: Rows) -> str:
    return ", ".join(dict.fromkeys(row["metric"] for row in rows))
