"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Name = Annotated[str | None, typer.Argument(help="A data set: see 'molsam data list'.")]
Data = Annotated[Path | None, typer.Option(help="Your own table of molecules.")]
Target = Annotated[list[str] | None, typer.Option(help="Column to predict; repeat for several.")]
Smiles = Annotated[str | None, typer.Option(help="Column with the SMILES.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training rows.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder with copies of the MoleculeNet files.")]
Processes = Annotated[
    int | None, typer.Option(min=1, help="Processes that read molecules; one a core if it pays.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
