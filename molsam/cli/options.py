"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[Path | None, typer.Option(help="Folder with copies of the MoleculeNet files.")]
Processes = Annotated[
    int | None, typer.Option(min=1, help="Processes that read molecules; one a core if it pays.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
