"""`molsam tune`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from .. import screen
from ..screen import err, out
from .options import Data, DataDir, Device, Epochs, Name, Processes, Smiles, Target
from .training import changes_of, interruptible, load_table, recipe_for, source_of


def tune(
    name: Name = None,
    data: Data = None,
    target: Target = None,
    smiles: Smiles = None,
    recipe: Annotated[
        str | None, typer.Option(help="What to start from; NAME's own recipe by default.")
    ] = None,
    space: Annotated[
        Path | None, typer.Option(help="TOML file whose table 'search' gives other ranges.")
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Trials of the study in the end, over all processes.")
    ] = 50,
    repeats: Annotated[
        int, typer.Option(min=1, help="Splits that a trial is tried on: seeds 1000, 1001, ...")
    ] = 3,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which no trial is started.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampler.")] = 0,
    epochs: Epochs = None,
    split: Annotated[
        str | None, typer.Option(help="As of 'molsam train'; the recipe's by default.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any field of what to start from."),
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder of the study; runs/tune-NAME.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Journal file, database URL or grpc://HOST:PORT; a file in the folder by default."
        ),
    ] = None,
    show: Annotated[
        str | None, typer.Option(metavar="NAME|FOLDER", help="Print a study and leave it alone.")
    ] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    processes: Processes = None,
) -> None:
    """Search a recipe's fields; the same command goes on, or joins in from another process."""
    from ..spaces import Space
    from ..tuning import Study, study

    if show is not None:
        screen.say_study(Study.load(_folder(show), storage=storage))
        return
    changes = changes_of(set_, epochs, split, target, smiles)
    chosen = recipe_for(name, data, recipe).change(changes)
    ranges = Space.load(space) if space else Space()
    ranges.require(chosen, changes)
    table = load_table(chosen, source_of(name, data), data_dir)
    folder = study.study_folder(out_folder, table.source)
    screen.say_table(table, guessed=not chosen.data.targets and data is not None)
    command = shlex.join(["molsam", *(study.redacted(word) for word in sys.argv[1:])])
    with (
        interruptible(folder, command, study.RECORD),
        screen.study_bar(trials) as (on_trial, progress, on_read),
    ):
        done = study.tune(
            chosen,
            table,
            trials=trials,
            repeats=repeats,
            seed=seed,
            space=ranges,
            out=folder,
            storage=storage,
            timeout=timeout,
            device=device,
            processes=processes,
            progress=progress,
            on_trial=on_trial,
            on_read=on_read,
            command=command,
        )
    screen.say_study(done)
    best = folder / study.BEST
    if best.is_file():
        out.print(f"best recipe: [bold]{escape(str(best))}[/]", soft_wrap=True)
    else:
        err.print("no trial is complete yet, so that there is no best recipe")


def _folder(show: str) -> Path:
    """The study's folder by its path, or by the name of its data set."""
    named = Path("runs") / f"tune-{show}"
    return named if os.sep not in show and named.is_dir() else Path(show)
