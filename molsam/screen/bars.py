"""How far something is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .console import err, say
from .contests import trial_text

if TYPE_CHECKING:
    from ..epochs import Progress
    from ..tuning import Study, TrialProgress


@contextmanager
def progress_bar() -> Iterator[tuple[Any, Any]]:
    """A live bar of training and one of reading before it; off a terminal a line for every tenth.

    Yields what `fit` calls after a step, and what it calls as molecules are read.
    """
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    if not err.is_terminal:
        yield _progress_line, None
        return
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[at]}"),
        TimeRemainingColumn(),
        console=err,
    )
    with bar:
        row = bar.add_task("reading molecules", total=None, at="")

        def trained(p: Progress) -> None:
            bar.update(
                row,
                total=p.members * p.epochs,
                completed=p.member * p.epochs + p.epochs_done,
                description=_where(p),
                at=_how(p),
            )

        def read(done: int, total: int) -> None:
            bar.update(row, total=total, completed=done, description="reading molecules")

        yield trained, read


def _progress_line(p: Progress) -> None:
    every = max(1, p.epochs // 10)
    if p.epochs_done % every == 0:
        say(f"{_where(p)}  {_how(p)}", err)


def _where(p: Progress) -> str:
    member = f"model {p.member + 1}/{p.members} " if p.members > 1 else ""
    return f"{member}epoch {math.ceil(p.epochs_done)}/{p.epochs}"


def _how(p: Progress) -> str:
    scores = "" if math.isnan(p.loss) else f"loss {p.loss:.3f}  {p.metric} {p.score:.3f}  "
    return f"{scores}{p.molecules_per_second:,.0f} molecules/s"


@contextmanager
def study_bar(trials: int) -> Iterator[tuple[Any, Any, Any]]:
    """A line for each trial, and on a terminal a live bar of all `trials`.

    Yields what `tune` calls after a trial, after a step of training, and as molecules are read.
    """
    from rich.progress import Progress as Bar

    def tried(study: Study, trial: Any) -> None:
        say(trial_text(study, trial), err)

    if not err.is_terminal:
        yield tried, None, None
        return
    with Bar(console=err, transient=True) as bar:
        row = bar.add_task("reading molecules", total=None)

        def trained(p: TrialProgress) -> None:
            share = (p.training.member + p.training.epochs_done / p.training.epochs) / (
                p.training.members
            )
            bar.update(
                row,
                total=trials,
                completed=min(p.trial + (p.repeat + share) / p.repeats, trials),
                description=f"trial {p.trial} split {p.repeat + 1}/{p.repeats} "
                f"{_where(p.training)}",
            )

        def read(done: int, total: int) -> None:
            bar.update(row, total=total, completed=done, description="reading molecules")

        yield tried, trained, read


@contextmanager
def counting_bar(what: str) -> Iterator[Any]:
    """A bar that appears with the first count; called with how much is done and in all."""
    from rich.progress import Progress as Bar

    if not err.is_terminal:
        yield None
        return
    with Bar(console=err, transient=True) as bar:
        tasks: list[Any] = []

        def show(done: int, total: int | None) -> None:
            tasks[:] = tasks or [bar.add_task(what, total=total)]
            bar.update(tasks[0], completed=done, total=total)

        yield show
