"""Where words go: answers to stdout, the rest to stderr; and what its tables have in common."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

SHOWN = 5  # of many rows, faults or trials


def say(text: str, console: Console = out) -> None:
    """A sentence: broken between words on a terminal, on one line where a program reads it."""
    console.print(text, soft_wrap=not console.is_terminal)


def count_of(count: int, what: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def spread(mean: float, sd: float) -> str:
    """A mean and its deviation, where there is one."""
    return f"{mean:.3f}" if math.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"


def numbers(first: str, *columns: str) -> Table:
    """A table of names and numbers; where it is too narrow, names are broken and numbers whole."""
    table = Table(box=None)
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
