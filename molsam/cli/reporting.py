"""`molsam report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..screen import out


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="HTML to write; RUN/report.html.")
    ] = None,
) -> None:
    """Write a page of a run: scores, curves, certainty, errors, recipe; one file, no scripts."""
    from .. import report as pages
    from ..runs import Run

    path = output or run / "report.html"
    pages.write(Run.load(run, device="cpu"), path)
    out.print(f"page: [bold]{escape(str(path))}[/]", soft_wrap=True)
