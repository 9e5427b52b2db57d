"""What the terminal shows: tables, bars and sentences. Answers on stdout, the rest on stderr."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from .comparison import Row, Summary
    from .datasets import CheckReport, MoleculeTable
    from .epochs import Progress
    from .runs import Run
    from .tuning import Study, TrialProgress

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

SHOWN = 5
ROWS = 50


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
        err.print(f"{_where(p)}  {_how(p)}", soft_wrap=True)


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
        err.print(trial_text(study, trial), soft_wrap=True)

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


def say_table(table: MoleculeTable, guessed: bool) -> None:
    labels = ", ".join(table.tasks[:SHOWN]) + (", ..." if len(table.tasks) > SHOWN else "")
    how = " (all numeric columns; choose with --target)" if guessed else ""
    err.print(
        f"{escape(table.source)}: {len(table):,} molecules, {table.kind}, target"
        f"{'s' if len(table.tasks) > 1 else ''} {escape(labels)}{how}",
        soft_wrap=True,
    )


def say_bad_rows(run: Run) -> None:
    bad = run.info.bad_rows
    if not bad:
        return
    err.print(f"{len(bad)} rows could not be read and took no part:")
    for row, smiles, reason in bad[:SHOWN]:
        err.print(f"  row {row}: {escape(smiles)}: {escape(reason)}", soft_wrap=True)
    if len(bad) > SHOWN:
        err.print(f"  and {len(bad) - SHOWN} more, in {escape(str(run.folder / 'run.json'))}")


def say_check(report: CheckReport) -> None:
    low, high = report.atoms
    groups = {
        "the same molecule": report.duplicates,
        "of these with other labels": report.conflicts,
    }
    size = f"{report.rows:,} rows, {low} to {high} heavy atoms"
    out.print(f"{escape(report.source)}: {size}", soft_wrap=True)
    out.print(f"unreadable: {len(report.unreadable):,} rows")
    for fault in report.unreadable[:SHOWN]:
        out.print(f"  {escape(str(fault))}", soft_wrap=True)
    out.print(f"salts and mixtures: {len(report.salts):,} rows{_rows(report.salts)}")
    for what, found in groups.items():
        first = "".join(f"\n  rows {', '.join(map(str, rows))}" for rows in found[:SHOWN])
        out.print(f"{what}: {len(found):,} groups of rows{first}", soft_wrap=True)
    table = Table("target", "known", "missing", "lowest", "highest", "counts", box=None)
    for label in report.labels:
        counts = ", ".join(f"{name}: {count:,}" for name, count in label.counts.items())
        table.add_row(
            escape(label.task),
            f"{label.known:,}",
            f"{label.missing:,}",
            f"{label.low:g}",
            f"{label.high:g}",
            escape(counts),
        )
    out.print(table)


def _rows(rows: Sequence[int]) -> str:
    shown = ", ".join(map(str, rows[:SHOWN])) + (", ..." if len(rows) > SHOWN else "")
    return f" (row {shown})" if rows else ""


def say_scores(done: list[Run]) -> None:
    """Test scores of one run, or mean and standard deviation over repeats."""
    from .runs import FIRST_MEMBER, MODELS_ALONE

    parts = {
        "validation": "valid",
        "test": "test",
        "models alone, test": f"{MODELS_ALONE}test",
        "first member alone, test": f"{FIRST_MEMBER}test",
        "random forest, test": "random forest, test",
    }
    scores = [run.scores for run in done]
    table = {
        title: [each[part] for each in scores]
        for title, part in parts.items()
        if all(part in each for each in scores)
    }
    out.print(score_table(table))
    if len(done) > 1:
        seeds = f"{done[0].info.seed} to {done[-1].info.seed}"
        out.print(f"mean ± standard deviation over {len(done)} runs, seeds {seeds}")
    shares = [run.share for run in done if run.recipe.training.gaussian_process]
    if shares:
        out.print(f"share of the Gaussian process: {', '.join(f'{share:g}' for share in shares)}")
    excluded = sorted(
        {task for metric in scores[0]["test"].values() for task in metric["excluded"]}
    )
    if excluded:
        names = escape(", ".join(excluded))
        out.print(f"left out of some scores: {names} (too few test labels, or one class only)")


def score_table(parts: dict[str, list[dict[str, Any]]]) -> Table:
    """Rows: metrics. Columns: parts. Several runs give mean ± standard deviation."""
    import numpy as np

    from .metrics import METRICS

    table = Table("", *map(escape, parts), box=None, padding=(0, 2, 0, 0))
    for name in next(iter(parts.values()))[0]:
        cells = []
        for runs in parts.values():
            means = np.array([run[name]["mean"] for run in runs], dtype=float)
            cells.append(_spread(means.mean(), means.std(ddof=1) if len(runs) > 1 else math.nan))
        table.add_row(METRICS[name].title, *cells)
    return table


def show_frame(frame: pd.DataFrame) -> None:
    """The first rows as a table on the screen."""
    shown = frame.head(ROWS)
    table = Table(*map(escape, map(str, shown.columns)), box=None)
    for row in shown.itertuples(index=False):
        cells = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row)
        table.add_row(*map(escape, cells))
    out.print(table)
    if len(frame) > ROWS:
        out.print(f"the first {ROWS} rows; write them all with -o FILE")


def row_text(row: dict[str, Any]) -> str:
    """One row of a study on one line."""
    values = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
    return escape("  ".join(values))


def say_summary(title: str, cells: list[dict[str, Any]]) -> None:
    """Mean and spread of a study's cells."""
    table = Table("task", "variant", "mean", "std", "n", box=None)
    for cell in cells:
        table.add_row(
            cell["task"],
            cell["variant"],
            f"{cell['mean']:.4g}",
            f"{cell['std']:.2g}",
            str(cell["n"]),
        )
    out.print(title)
    out.print(table)


def say_fit(row: Row) -> None:
    """A baseline that was fitted just now."""
    err.print(
        f"{row.task}  seed {row.seed}  {row.model}  {row.metric} valid {row.valid:.3f} test "
        f"{row.test:.3f}  {row.seconds:.0f} s",
        soft_wrap=True,
    )


def say_comparison(rows: Sequence[Row], summaries: Sequence[Summary]) -> None:
    """Every model over seeds, beside our own where there is one, and who wins."""
    from .comparison import OURS, resampled, verdicts
    from .metrics import METRICS

    first = rows[0]
    title = METRICS[first.metric].title
    table = _numbers("model", "validation", "test", "n", "behind", "wins", "p")
    for s in summaries:
        cells = [f"{s.valid:.3f}", _spread(s.mean, s.sd), str(s.n)]
        if s.pairs:
            cells += [_spread(s.behind, s.behind_sd), f"{s.wins} of {s.pairs}"]
            cells += ["" if math.isnan(s.p) else f"{s.p:.2g}"]
        table.add_row(escape(s.model), *cells)
    out.print(table)
    seeds = ", ".join(str(seed) for seed in sorted({row.seed for row in rows}))
    out.print(
        f"{title} of {escape(first.task)}, {escape(first.protocol)}, seeds {seeds}; mean ± "
        "standard deviation over seeds.",
        soft_wrap=True,
    )
    if not any(s.model.startswith(OURS) for s in summaries):
        out.print("No finished run has these splits; train some, or name them with --runs.")
        return
    out.print(
        "behind: how far a model scores behind molsam's on the same split, negative where it is "
        "ahead; wins: on how many seeds it is ahead; "
        + (
            "p: corrected resampled t-test (Nadeau and Bengio 2003), two-sided, each comparison "
            "by itself."
            if resampled(rows)
            else "no p: one split serves all seeds, whose spread is that of the models alone."
        ),
        soft_wrap=True,
    )
    for sentence in verdicts(first.metric, summaries):
        out.print(escape(sentence), soft_wrap=True)


def _spread(mean: float, sd: float) -> str:
    return f"{mean:.3f}" if math.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"


def trial_text(study: Study, trial: Any) -> str:
    """One trial on one line: its scores, or why it has none, and the best trial so far."""
    from .tuning.study import reason_of

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
    out.print(f"{escape(study.request.name)}, {escape(request.source)}: {states}", soft_wrap=True)
    for trial, reason in study.failures()[:SHOWN]:
        out.print(f"trial {trial.number} failed: {escape(reason)}", soft_wrap=True)
    if not counts["complete"]:
        return
    table = _numbers("trial", f"validation {request.metric}", "lowest", "highest", "seconds")
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
    table.add_column("weight", justify="right", no_wrap=True)
    for name, value in sorted(
        study.best_fields.items(), key=lambda item: -importances.get(item[0], 0.0)
    ):
        weight = f"{importances[name]:.2f}" if name in importances else ""
        table.add_row(name, escape(str(value)), escape(str(study.space.ranges[name])), weight)
    out.print(table)
    out.print("weight: share in what sets good trials apart (PED-ANOVA), rough for few trials")


def say_round(done: int) -> None:
    """How far a bench is."""
    err.print(f"rounds done: {done}")


def say_optimizers(report: dict[str, Any]) -> None:
    """What `bench.compare_optimizers` found."""
    table = Table("optimizer", "grad L(w)", box=None)
    for column in ("molecules/s", "of Adam", "low", "high", "gradients", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in report["rows"]:
        table.add_row(
            row["optimizer"],
            row["when"],
            f"{row['molecules_per_second']:,.0f}",
            *(f"{row[name]:.3f}" for name in ("ratio_to_adam", "ratio_low", "ratio_high")),
            f"{row['gradients_per_step']:.3f}",
            f"{row['extra_bytes'] / 1e6:.1f} MB",
        )
    out.print(table)
    settings, model = report["settings"], report["settings"]["model"]
    out.print(
        f"CoMPT of width {model['width']} and depth {model['depth']}, {settings['parameters']:,} "
        f"parameters, batches of {settings['batch_size']} BBBP-sized molecules, on "
        f"{report['device']} (threads: {report['threads']}). grad L(w): when a true perturbation "
        f"gradient is taken. Medians over {settings['rounds']} rounds of {settings['steps']} "
        "steps, with the lowest and highest ratio; gradients a step; memory beyond Adam's."
    )


def say_models(report: dict[str, Any]) -> None:
    """What `bench.compare_models` found."""
    table = _numbers("model", "mol/s", "of plain", "low", "high", "of peak", "per GF/s")
    for row in report["rows"]:
        cells = [row["model"], f"{row['molecules_per_second']:,.0f}"]
        cells += [f"{row[name]:.2f}" for name in ("ratio", "ratio_low", "ratio_high")]
        if "plain" in row:
            cells += [f"{row['share_of_peak']:.2f}"]
            cells += [f"{row['molecules_per_second_per_gflops']:.2f}"]
        table.add_row(*cells)
    out.print(table)
    settings = report["settings"]
    out.print(
        f"Width {settings['width']}, depth {settings['depth']}, batches of "
        f"{settings['batch_size']} molecules of {settings['mean_atoms']:.1f} atoms, forward, "
        f"backward and AdamW, on {report['device']} (threads: {report['threads']}). Plain: "
        f"DenseCoMPT padded to {settings['padded_to']} atoms, and dgl.nn.GraphormerLayer on the "
        "same batches; as used: on shuffled ones, beside the like-sized ones of molsam's "
        "training. AttentiveFP: of CoMPT with the mean readout. Peak: "
        f"{settings['peak_gflops']:,.0f} GFLOP/s, the best of matrix products in the same "
        f"minutes; per GF/s: molecules a second for each of them. Medians over "
        f"{settings['rounds']} rounds of {settings['steps']} steps."
    )


def say_featurizers(report: dict[str, Any]) -> None:
    """What `bench.compare_featurizers` found."""
    table = _numbers("featurizer", "form", "mol/s", "dgllife mol/s", "of dgllife", "low", "high")
    for row in report["rows"]:
        table.add_row(
            row["featurizer"],
            row["form"],
            f"{row['molecules_per_second']:,.0f}",
            f"{row['dgllife_molecules_per_second']:,.0f}",
            *(f"{row[name]:.1f}" for name in ("ratio", "ratio_low", "ratio_high")),
        )
    out.print(table)
    settings = report["settings"]
    out.print(
        f"Molecules of {escape(settings['table'] or 'the bench')}, {settings['mean_atoms']:.1f} "
        "atoms on average, read beforehand; one thread. "
        f"Medians over {settings['rounds']} rounds of {settings['count']}, with the lowest and "
        "highest ratio. featurize: molecules.featurize; pack: PackedMolecules.from_mols, which "
        "adds shortest paths."
    )
    table = _numbers("SMILES to compt", "processes", "mol/s", "of one", "low", "high", "worth")
    for row in report["reading"]:
        table.add_row(
            "with descriptors" if row["descriptors"] else "alone",
            str(row["processes"]),
            f"{row['molecules_per_second']:,.0f}",
            *(f"{row[name]:.2f}" for name in ("ratio", "ratio_low", "ratio_high")),
            "never" if row["worth"] is None else f"{row['worth']:,.0f}",
        )
    out.print(table)
    start = report["reading"][0]["start_seconds"]
    out.print(f"worth: molecules that repay the start of the processes, {start:.1f} s.")


def say_prediction(report: dict[str, Any]) -> None:
    """What `bench.measure_prediction` found."""
    table = _numbers("command", "mol/s", "started", "memory", "of chemprop", "started")
    for row in report["rows"]:
        found = [row[name] for name in ("ratio", "ratio_after_start") if name in row]
        table.add_row(*_prediction(row), *(f"{ratio:.2f}" for ratio in found))
    out.print(table)
    settings = report["settings"]
    what = escape(settings["table"]) if settings["table"] else "random, BBBP-sized"
    out.print(
        f"{settings['count']:,} molecules ({what}) from a file of SMILES to one of predictions, "
        f"default models, on {report['device']} (threads: {report['threads']}). Started: without "
        "the time of one molecule. Each in a new process; medians over "
        f"{settings['rounds']} rounds, and the most memory that one process of a command held."
    )


def say_scale(report: dict[str, Any]) -> None:
    """What `bench.measure_scale` found."""
    table = _numbers("molecules", "mol/s", "started", "memory")
    for row in report["rows"]:
        table.add_row(f"{row['count']:,}", *_prediction(row)[1:])
    out.print(table)
    out.print(
        "Random BBBP-sized molecules from a file of SMILES to one of predictions, by the default "
        f"model without descriptors, on {report['device']} (threads: {report['threads']}). "
        "Started: without the time of one molecule. Memory: the most that one process held."
    )


def _prediction(row: dict[str, Any]) -> list[str]:
    rates = (row["molecules_per_second"], row["molecules_per_second_after_start"])
    return [row["form"], *(f"{each:,.0f}" for each in rates), f"{row['peak_bytes'] / 1e6:,.0f} MB"]


def say_training(report: dict[str, Any]) -> None:
    """What `bench.measure_training` found."""
    table = _numbers("optimizer", "molecules/s", "of AdamW", "low", "high")
    for row in report["rows"]:
        ratios = (f"{row[name]:.3f}" for name in ("ratio", "ratio_low", "ratio_high"))
        table.add_row(row["optimizer"], f"{row['molecules_per_second']:,.0f}", *ratios)
    out.print(table)
    settings, model = report["settings"], report["settings"]["model"]
    out.print(
        f"fit with the default recipe: CoMPT of width {model['width']} and depth "
        f"{model['depth']}, batches of {settings['batch_size']} BBBP-sized molecules, on "
        f"{report['device']} (threads: {report['threads']}). Epochs 2 to {settings['epochs']} of "
        f"{settings['count']} molecules, without validation. Medians over {settings['rounds']} "
        "runs of each."
    )


def _numbers(first: str, *columns: str) -> Table:
    """A table of names and numbers."""
    table = Table(box=None)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
