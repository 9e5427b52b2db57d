"""Where words go: answers to stdout, the rest to stderr; and what its tables have in common."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

SHOWN = 5  # of many rows, faults or trials


def spread(mean: float, sd: float) -> str:
    """A mean and its deviation, where there is one."""
    return f"{mean:.3f}" if math.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"


def numbers(first: str, *columns: str) -> Table:
    """A table of names and numbers."""
    table = Table(box=None)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
