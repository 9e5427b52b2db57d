"""Tables of one's own and what runs made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .console import SHOWN, count_of, err, numbers, out, say, spread

if TYPE_CHECKING:
    import pandas as pd

    from ..datasets import CheckReport, MoleculeTable
    from ..runs import Run

ROWS = 50
LETTERS = 12  # of a cell, where the screen is narrow


def say_table(table: MoleculeTable, guessed: bool) -> None:
    labels = ", ".join(table.tasks[:SHOWN]) + (", ..." if len(table.tasks) > SHOWN else "")
    how = " (all numeric columns; choose with --target)" if guessed else ""
    say(
        f"{escape(table.source)}: {count_of(len(table), 'molecule')}, {table.kind}, target"
        f"{'s' if len(table.tasks) > 1 else ''} {escape(labels)}{how}",
        err,
    )
    _say_spoilt(table, err)


def say_bad_rows(run: Run) -> None:
    bad = run.info.bad_rows
    if not bad:
        return
    err.print(f"{count_of(len(bad), 'row')} could not be read and took no part:")
    for row, smiles, reason in bad[:SHOWN]:
        err.print(f"  row {row}: {escape(smiles)}: {escape(reason)}", soft_wrap=True)
    if len(bad) > SHOWN:
        more = f"{len(bad) - SHOWN:,} more, in {escape(str(run.folder / 'run.json'))}"
        err.print(f"  and {more}", soft_wrap=True)


def _say_spoilt(found: MoleculeTable | CheckReport, console: Console) -> None:
    if found.spoilt:
        say(
            f"no target, for a text is among the numbers: {escape(', '.join(found.spoilt))}",
            console,
        )


def say_check(report: CheckReport) -> None:
    low, high = report.atoms
    groups = {
        "the same molecule": report.duplicates,
        "of these with other labels": report.conflicts,
        "the same but for salts or charges": report.related,
    }
    size = f"{count_of(report.rows, 'row')}, {low} to {high} heavy atoms"
    out.print(f"{escape(report.source)}: {size}", soft_wrap=True)
    out.print(f"unreadable: {count_of(len(report.unreadable), 'row')}")
    for fault in report.unreadable[:SHOWN]:
        out.print(f"  {escape(str(fault))}", soft_wrap=True)
    out.print(f"salts and mixtures: {count_of(len(report.salts), 'row')}{_rows(report.salts)}")
    for what, found in groups.items():
        first = "".join(f"\n  rows {', '.join(map(str, rows))}" for rows in found[:SHOWN])
        out.print(f"{what}: {count_of(len(found), 'group')} of rows{first}", soft_wrap=True)
    _say_spoilt(report, out)
    if not report.labels:
        say("no column of numbers to learn from")
        return
    table = numbers("target", "known", "missing", "lowest", "highest")
    table.add_column("counts", overflow="fold")
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
    from ..gaussian_process import MOST_ROWS
    from ..runs import FIRST_MEMBER, FOREST, MODELS_ALONE

    parts = {
        "validation": "valid",
        "test": "test",
        "models alone, test": f"{MODELS_ALONE}test",
        "first member alone, test": f"{FIRST_MEMBER}test",
        FOREST: FOREST,
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
    if any(run.recipe.training.gaussian_process and run.process is None for run in done):
        out.print(f"no Gaussian process: it serves up to {MOST_ROWS:,} training molecules")
    part = "test" if "test" in scores[0] else "validation"
    judged = scores[0][parts[part]]
    excluded = sorted({task for metric in judged.values() for task in metric["excluded"]})
    if excluded:
        names = escape(", ".join(excluded))
        out.print(f"left out of some scores: {names} (too few {part} labels, or one class only)")


def score_table(parts: dict[str, list[dict[str, Any]]]) -> Table:
    """Rows: metrics. Columns: parts. Several runs give mean ± standard deviation."""
    import numpy as np

    from ..metrics import METRICS

    table = Table("", *map(escape, parts), box=None, padding=(0, 2, 0, 0))
    for name in next(iter(parts.values()))[0]:
        cells = []
        for runs in parts.values():
            means = np.array([run[name]["mean"] for run in runs], dtype=float)
            cells.append(spread(means.mean(), means.std(ddof=1) if len(runs) > 1 else math.nan))
        table.add_row(METRICS[name].title, *cells)
    return table


def show_frame(frame: pd.DataFrame, spare: Sequence[Sequence[str]] = ()) -> None:
    """The first rows as a table on the screen; where that is too narrow, without some of the
    groups of columns `spare`, the first of them first."""
    shown = frame.head(ROWS).map(_cell)
    shown.columns = shown.columns.map(str)
    left_out = []
    for names in spare:
        if _width(shown) <= out.width:
            break
        shown = shown.drop(columns=list(names))
        left_out += reversed(names)
    table = Table(*map(escape, shown.columns), box=None)
    for row in shown.itertuples(index=False):
        table.add_row(*map(escape, row))
    out.print(table)
    parts = [f"the first {ROWS} rows"] if len(frame) > ROWS else []
    parts += [f"without {', '.join(reversed(left_out))} for want of room"] if left_out else []
    if parts:
        out.print(escape(f"{', '.join(parts)}; -o FILE writes all"))


def _cell(value: Any) -> str:
    import pandas as pd

    if pd.isna(value):
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _width(shown: pd.DataFrame) -> int:
    """What a table needs to show its headers whole, and of cells so many letters."""
    cells = {name: max(map(len, shown[name]), default=0) for name in shown}
    return sum(max(len(str(name)), min(cells[name], LETTERS)) + 2 for name in shown)


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
