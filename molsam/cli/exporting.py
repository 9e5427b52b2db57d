"""`molsam export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..screen import out


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A program of torch's, .pt2, or .onnx.")
    ],
) -> None:
    """Write a run as one file that predicts without molsam."""
    from .. import export
    from ..runs import Run

    export.export(Run.load(run, device="cpu"), output)
    out.print(f"written to {escape(str(output))}", soft_wrap=True)
