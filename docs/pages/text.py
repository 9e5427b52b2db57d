"""What the pages share: numbers, rows of a table, text between two markers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]


def filled(text: str, begin: str, parts: Iterable[str], end: str) -> str:
    """`text` with `parts`, blank lines between them, in place of what is between the markers."""
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return before + "\n\n".join([begin, *parts, end]) + after


def line(cells: Iterable[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def number(value: float) -> str:
    """Three decimals, without the zero before them."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def spread(mean: float, sd: float) -> str:
    """`.612 ± .034`, of one seed `.612`."""
    return number(mean) + ("" if math.isnan(sd) else f" ± {number(sd)}")
