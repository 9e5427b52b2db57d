"""What a page is made of: paragraphs, tables, pictures, molecules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .. import molecules, pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rdkit.Chem import Mol

Part: TypeAlias = "dict[str, Any]"


def text(words: str) -> Part:
    """A paragraph."""
    return {"kind": "text", "text": words}


def code(words: str) -> Part:
    """Text as it is."""
    return {"kind": "code", "text": words}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Part:
    """Names in the first column, numbers in the others; `head` may be empty."""
    return {"kind": "table", "head": head, "rows": rows}


def figure(drawn: Figure, words: str) -> Part:
    """A picture, and what it shows, for those who cannot see it."""
    return {"kind": "figure", "svg": safe(pictures.svg(drawn)), "text": words}


def drawings(shown: Iterable[tuple[Mol | None, Sequence[str]]]) -> Part:
    """Molecules with lines of text under each; None draws nothing."""
    drawn = [{"svg": safe(molecules.draw(mol)) if mol else "", "lines": x} for mol, x in shown]
    return {"kind": "molecules", "drawings": drawn}


def safe(svg: str) -> Any:
    """A picture of ours, not to be escaped."""
    from markupsafe import Markup

    return Markup(svg)


def number(value: float) -> str:
    """To three figures; a dash for NaN."""
    return "-" if np.isnan(value) else f"{value:.3g}"
