"""The tables and pictures of contests in docs/studies.md, from the rows in docs/studies/."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import pandas as pd

from molsam.metrics import METRICS
from molsam.studies import STUDIES, Contest, costs, draw_gains, gains, summarize, verdicts
from molsam.studies.rows import Rows

from .text import DOCS, filled, line, spread

PAGE = DOCS / "studies.md"
ROWS = DOCS / "studies"
CONTESTS = {name: study for name, study in STUDIES.items() if isinstance(study, Contest)}


def main() -> None:
    """Write what there is evidence for."""
    for name, contest in CONTESTS.items():
        if rows := read(name):
            draw_gains(rows, contest.reference, ROWS / f"{name}.png")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def read(name: str) -> Rows:
    """The rows of a contest, in its order; none if it was not run."""
    path, contest = ROWS / f"{name}.csv", CONTESTS[name]
    rows: Rows = pd.read_csv(path).to_dict("records") if path.is_file() else []  # type: ignore[assignment]
    tasks, variants = contest.tasks, list(contest.variants)
    return sorted(
        rows, key=lambda r: (tasks.index(r["task"]), r["seed"], variants.index(r["variant"]))
    )


def page(text: str) -> str:
    """The page with the tables of today's evidence."""
    for name in CONTESTS:
        begin, end = f"<!-- {name}: make results -->", f"<!-- end of {name} -->"
        text = filled(text, begin, section(name, read(name)), end)
    return text


def section(name: str, rows: Rows) -> Iterator[str]:
    """What was run, its picture, a table for each task, and what the differences mean."""
    contest = CONTESTS[name]
    if left := missing(contest, rows):
        yield f"Not run: {'; '.join(left)}."
    if not rows:
        return
    picture = f"studies/{name}.png"
    yield f"[![How far each variant is ahead of {contest.reference}]({picture})]({picture})"
    for _, of_task in groupby(rows, key=itemgetter("task")):
        yield "\n".join(table(contest, list(of_task)))
    told = verdicts(gains(rows, contest.reference, "test"), contest.reference)
    yield "\n".join(f"- {sentence}" for sentence in told)


def missing(contest: Contest, rows: Rows) -> list[str]:
    """Tasks without a run, and of the others the variants without one."""
    run = {(row["task"], row["variant"]) for row in rows}
    found = {task for task, _ in run}
    bare = ", ".join(task for task in contest.tasks if task not in found)
    left = [bare] if bare else []
    for task in contest.tasks:
        variants = [f"`{v}`" for v in contest.variants if (task, v) not in run]
        if task in found and variants:
            left.append(f"of {task} {', '.join(variants)}")
    return left


def table(contest: Contest, rows: Rows) -> Iterator[str]:
    """Variants of one task below each other, the scores of a few seeds and what they took."""
    task, metric, reference = rows[0]["task"], METRICS[rows[0]["metric"]].title, contest.reference
    head = [f"{task}, {metric}", "test", f"ahead of {reference}", "better on", "p", "validation"]
    yield line([*head, "epochs", "gradients", "time", "training loss", "top eigenvalue"])
    yield line(["---"] * 11)
    tests, valids = gains(rows, reference, "test"), summarize(rows, "valid")
    taken = {cost["variant"]: cost for cost in costs(rows)}
    for test, valid in zip(tests, valids, strict=True):
        yield line([*scored(test, valid), *spent(taken[test["variant"]], taken.get(reference))])


def scored(test: dict[str, Any], valid: dict[str, Any]) -> list[str]:
    """Cells on how a variant predicts."""
    beside = ["", "", ""]
    if test["pairs"]:
        p = "" if math.isnan(test["p"]) else f"{test['p']:.2g}"
        ahead, wins = spread(test["ahead"], test["ahead_std"]), f"{test['wins']} of {test['pairs']}"
        beside = [ahead, wins, p]
    found = spread(test["mean"], test["std"])
    return [test["variant"], found, *beside, spread(valid["mean"], valid["std"])]


def spent(cost: dict[str, Any], reference: dict[str, Any] | None) -> list[str]:
    """Cells on what a variant took, and where it ended."""
    ratio = f"{cost['seconds'] / reference['seconds']:.2f}" if reference else ""
    counts = [f"{cost[name]:,.0f}" for name in ("epochs", "gradients")]
    return [*counts, ratio, f"{cost['train_loss']:.2g}", f"{cost['sharpness']:.3g}"]
