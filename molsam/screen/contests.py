"""What was compared and searched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from .console import SHOWN, err, numbers, out, say, spread

if TYPE_CHECKING:
    from ..comparison import Row, Summary
    from ..tuning import Study


def say_fit(row: Row) -> None:
    """A baseline that was fitted just now."""
    say(
        f"{row.task}  seed {row.seed}  {row.model}  {row.metric} valid {row.valid:.3f} test "
        f"{row.test:.3f}  {row.seconds:.0f} s",
        err,
    )


def say_comparison(rows: Sequence[Row], summaries: Sequence[Summary]) -> None:
    """Every model over seeds, beside our own where there is one, and who wins."""
    from ..comparison import OURS, seeds_text, verdicts
    from ..metrics import METRICS

    first = rows[0]
    title = METRICS[first.metric].title
    table = numbers("model", "validation", "test", "n", "behind", "wins", "p")
    for s in summaries:
        cells = [f"{s.valid:.3f}", spread(s.mean, s.sd), str(s.n)]
        if s.pairs:
            cells += [spread(s.behind, s.behind_sd), f"{s.wins} of {s.pairs}"]
            cells += ["" if math.isnan(s.p) else f"{s.p:.2g}"]
        table.add_row(escape(s.model), *cells)
    out.print(table)
    seeds = {row.seed for row in rows}
    means = "; mean ± standard deviation over seeds" if len(seeds) > 1 else ""
    say(f"{title} of {escape(first.task)}, {escape(first.protocol)}, {seeds_text(seeds)}{means}.")
    if not any(s.model.startswith(OURS) for s in summaries):
        out.print("No finished run has these splits; train some, or name them with --runs.")
        return
    say(
        "behind: how far a model scores behind molsam's on the same split, negative where it is "
        f"ahead; wins: on how many seeds it is ahead; {_test(rows)}"
    )
    for sentence in verdicts(first.metric, summaries):
        say(escape(sentence))


def _test(rows: Sequence[Row]) -> str:
    from ..comparison import resampled

    if len({row.seed for row in rows}) == 1:
        return "no p: one seed has no spread."
    if not resampled(rows):
        return "no p: one split serves all seeds, whose spread is that of the models alone."
    return (
        "p: corrected resampled t-test (Nadeau and Bengio 2003), two-sided, each comparison by "
        "itself."
    )


def trial_text(study: Study, trial: Any) -> str:
    """One trial on one line: its scores, or why it has none, and the best trial so far."""
    from ..tuning.study import reason_of

    scores = ", ".join(f"{score:.4g}" for score in study.scores(trial).values())
    state = study.state(trial)
    text = {
        "complete": f"{study.request.metric} {trial.value or 0.0:.4g} ({scores})",
        "pruned": f"pruned after {scores}",
    }.get(state, f"{state}: {reason_of(trial)}")
    best = study.counts()["complete"] and study.best_trial
    beside = f"; best {best.value:.4g} (trial {best.number})" if best else ""
    return escape(f"trial {trial.number}: {text}{beside}")


def say_study(study: Study) -> None:
    """The best trials of a study, and what the best one chose."""
    request, counts = study.request, study.counts()
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    say(f"{escape(study.request.name)}, {escape(request.source)}: {states}")
    for trial, reason in study.failures()[:SHOWN]:
        say(f"trial {trial.number} failed: {escape(reason)}")
    if not counts["complete"]:
        return
    table = numbers("trial", f"validation {request.metric}", "lowest", "highest", "seconds")
    for trial in study.ranking()[:SHOWN]:
        scores = study.scores(trial).values()
        table.add_row(
            str(trial.number),
            *(f"{score:.4g}" for score in (trial.value or 0.0, min(scores), max(scores))),
            f"{trial.duration.total_seconds():.0f}" if trial.duration else "",
        )
    out.print(table)
    importances = study.importances()
    table = Table("field", "best", "searched", box=None)
    if importances:
        table.add_column("weight", justify="right", no_wrap=True)
    for name, value in sorted(
        study.best_fields.items(), key=lambda item: -importances.get(item[0], 0.0)
    ):
        cells = [name, escape(str(value)), escape(str(study.space.ranges[name]))]
        if importances:
            cells += [f"{importances[name]:.2f}" if name in importances else ""]
        table.add_row(*cells)
    out.print(table)
    if importances:
        out.print("weight: share in what sets good trials apart (PED-ANOVA), rough for few trials")
