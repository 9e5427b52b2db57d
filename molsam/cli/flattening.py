"""`molsam landscape`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from .. import screen
from ..screen import err, out
from .options import DataDir, Device
from .training import load_table


def landscape(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for the picture and the tables.")
    ] = Path("runs/landscape"),
    points: Annotated[int, typer.Option(help="On each axis of the plane; odd.")] = 15,
    seed: Annotated[int, typer.Option(min=0, help="Draws the directions.")] = 0,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Measure how flat the training loss is around the weights of runs, side by side."""
    from .. import flatness
    from ..runs import Run

    opened = [Run.load(run, device=device) for run in runs]
    found = []
    for name, run in zip(flatness.names_of(runs), opened, strict=True):
        table = load_table(run.recipe, run.info.source, data_dir, run.info.kind)
        found.append(flatness.survey(run, table, name=name, seed=seed, points=points))
        screen.say(f"{escape(name)} is done", err)
    flatness.save(found, out_folder)
    screen.show_frame(flatness.numbers(found))
    out.print(f"pictures and tables: [bold]{escape(str(out_folder))}[/]", soft_wrap=True)
