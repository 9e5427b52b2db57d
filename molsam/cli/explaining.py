"""`molsam explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from .. import screen
from ..screen import out
from .options import Device


def explain(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    smiles: Annotated[str, typer.Argument(help="One molecule.")],
    task: Annotated[str | None, typer.Option(help="Which target, where there are several.")] = None,
    method: Annotated[
        str, typer.Option(help="masking: all of the run; gradients: of its models alone.")
    ] = "masking",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A picture, .svg or .png, or a .csv.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Say what each atom of a molecule adds to its prediction."""
    from .. import explain
    from ..runs import Run

    found = explain.explain(Run.load(run, device=device), smiles, task=task, method=method)
    if output is not None:
        found.save(output)
    out.print(escape(found.smiles), soft_wrap=True)
    out.print(escape(f"{found.column}: {found.prediction:.4g}"), soft_wrap=True)
    screen.show_frame(found.table())
    if output is not None:
        out.print(f"written to {escape(str(output))}", soft_wrap=True)
